"""The base class of every error that `penchant.models` defines."""


class ModelError(Exception):
    """Base class of the errors in this package. Each one also derives from the built-in exception that it refines."""
