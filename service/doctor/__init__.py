"""Checks of an installation, for its operator."""
