"""Panels of data, drawn by matplotlib."""
