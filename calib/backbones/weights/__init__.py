"""Weight files: found, read without running code, and brought to the layout of a model."""
