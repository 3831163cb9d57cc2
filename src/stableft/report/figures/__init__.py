"""Figures: panels as plain data, and their drawing with matplotlib."""
