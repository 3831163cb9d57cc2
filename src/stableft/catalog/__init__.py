"""Rows of data: tasks with their metrics, families of models."""
