"""The sections of a report: each is a function of its subject."""
