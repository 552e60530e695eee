"""Prompts: fixed ones from a template, learned ones from context vectors around the class name."""
