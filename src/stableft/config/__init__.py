"""A sweep file and its recipes become planned runs."""
