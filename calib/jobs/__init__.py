"""Whole jobs: what `train.py`, `evaluate.py` and the `calib` command run."""
