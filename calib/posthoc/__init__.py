"""What is fitted on validation outputs: calibrators."""
