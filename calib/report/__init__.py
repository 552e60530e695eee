"""What a reader is shown: tables, figures."""
