"""Load a checkpoint and build a run's model from it."""
