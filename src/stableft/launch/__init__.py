"""Executors: each does the runs of a sweep with the same function and skips those that are done."""
