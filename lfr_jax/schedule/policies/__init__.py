"""A file for each policy."""
