"""A checkpoint becomes a model with a new head."""
