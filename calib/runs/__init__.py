"""A run on disk: its folder, what makes it the same run, its last state, what it exports and logs."""
