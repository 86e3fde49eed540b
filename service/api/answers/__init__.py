"""Models of the answers."""
