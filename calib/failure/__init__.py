"""Failure prediction: a head on frozen features that says which predictions are likely wrong, and why."""
