"""Run many fine-tuning runs on this machine: what is left to do, worker processes, and progress."""
