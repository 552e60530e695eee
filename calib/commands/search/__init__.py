"""`calib sweep` and `calib tune`: many settings, trained side by side, in one table."""
