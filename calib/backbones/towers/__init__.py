"""Towers of our own where open_clip's take seconds to import: the same numbers, to the last bit."""
