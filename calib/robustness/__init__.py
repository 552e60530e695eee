"""Robustness: what shifts and corruptions of images do to predictions, confidences and promises."""
