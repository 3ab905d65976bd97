"""A comparison of two checkpoints in words, as a table and as a page."""
