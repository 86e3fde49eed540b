"""How long-running mathematics tells where it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with stage, done, total."""


def silent(stage: str, done: int, total: int) -> None:
    """Shows no progress."""
