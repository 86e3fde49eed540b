"""What the feedback log says, and how it is read."""
