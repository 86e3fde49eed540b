"""States of bundles that no longer rank are removed, some users at a time."""

from collections.abc import Callable
from functools import partial

from penchant.service.feedback.commits import Transact
from penchant.service.store.bundles import UserKey, drop_outdated


class Leftovers:
    """Removes what other bundles had learned of users. The writer's thread runs it.

    Args:
        version: Of the bundle that ranks now.
    """

    def __init__(self, version: Callable[[], str]) -> None:
        self._version = version
        self._reached: UserKey | None = None

    def step(self, transact: Transact, now: float) -> bool:
        """One transaction; returns whether there may be more to remove.

        Args:
            transact: How the store is changed.
            now: Unix seconds.
        """
        after = self._reached or ("", "")
        self._reached = transact(partial(drop_outdated, keep=self._version(), now=now, after=after))
        return self._reached is not None
