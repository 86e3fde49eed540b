"""From texts to features, each request in its turn."""
