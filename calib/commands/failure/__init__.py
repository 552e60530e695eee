"""`train.py task=failure`: from settings to a trained failure head and its results."""
