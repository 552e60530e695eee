"""Segmentation: images with a class per pixel, a small network trained to be calibrated, what it predicts."""
