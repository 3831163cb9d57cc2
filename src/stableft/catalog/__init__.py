"""Tables of facts: tasks with their metrics, and model families."""
