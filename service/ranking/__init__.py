"""The hot path: from a task to a ranking."""
