"""Train one run: setup, loop, evaluation, checkpoints and output files."""
