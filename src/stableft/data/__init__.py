"""Read, split and tokenize a task's rows, and score predictions."""
