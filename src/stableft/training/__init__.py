"""One run: set-up, the loop, evaluation, checkpoints, and what it leaves."""
