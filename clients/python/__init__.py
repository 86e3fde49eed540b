"""penchant: the Python SDK."""
