"""States of bundles that no longer rank are removed, some users at a time."""

from functools import partial

from penchant.service.bundles.served_model import Models
from penchant.service.feedback.commits import Transact
from penchant.service.store.bundles import UserKey, drop_outdated


class Leftovers:
    """Removes what other bundles had learned of users. The writer's thread runs it.

    Args:
        models: Models of this server.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._reached: UserKey | None = None

    def step(self, transact: Transact, now: float) -> bool:
        """One transaction; returns whether there may be more to remove.

        Args:
            transact: How the store is changed.
            now: Unix seconds.
        """
        after, keep = self._reached or ("", ""), self._models.current.bundle.version
        self._reached = transact(partial(drop_outdated, keep=keep, now=now, after=after))
        return self._reached is not None
