"""The HTTP service, its stores and its queue."""
