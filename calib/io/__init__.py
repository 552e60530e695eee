"""Files: whole or absent, checked when read, one process at a time."""
