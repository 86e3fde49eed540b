"""What the writer's thread does between groups of feedback: work on stored data, in small steps."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

Result = TypeVar("Result")


class Transact(Protocol):
    """A function that runs work in a write transaction of its own, and retries it after contention."""

    def __call__(self, work: Callable[[Connection], Result], /) -> Result:
        """Run the work, and return its result as soon as the transaction is durable."""


class Chore(Protocol):
    """A removal of data that is done in small steps, between groups of feedback."""

    def step(self, transact: Transact, now: float) -> bool:
        """Do one small step, and return whether there may be more to do right away.

        Args:
            transact: Function that runs work in a write transaction.
            now: Current time in Unix seconds.
        """
