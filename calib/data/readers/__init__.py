"""Readers: from a file layout to splits of images with labels."""
