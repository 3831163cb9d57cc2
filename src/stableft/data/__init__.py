"""Rows of a task: read, split, tokenized, scored."""
