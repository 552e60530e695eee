"""`calib vqa`: questions with options, changed on purpose, answered by a model, and judged."""
