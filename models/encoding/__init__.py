"""From a text to the vector that the user model reads."""
