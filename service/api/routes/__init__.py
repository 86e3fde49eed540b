"""The routes, one file a group of paths."""
