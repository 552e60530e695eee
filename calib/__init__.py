"""Calibrated prompts and uncertainty for frozen medical vision-language models."""

__version__ = "0.1.0"
