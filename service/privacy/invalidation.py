"""Invalidation of a server's caches when data of users is deleted, on this server or on another one."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from penchant.service.bundles.served_model import Models
from penchant.service.encoding.relevance import RelevanceScorer
from penchant.service.feed import ALL
from penchant.service.ranking.rankings import Rankings
from penchant.service.store import feed
from penchant.service.store.feed import Change
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.states import UserKey

CHANGE: Final = "forget"
"""Kind of the changes that tell other servers what to drop."""

_MAX_KEYS: Final = 1000  # in one change


@dataclass(frozen=True)
class Deletion:
    """Deleted data that no cache may hold any longer.

    Attributes:
        tenant: Tenant that owned the data.
        user: Hash of a deleted user, as in the logs. None if the user still exists.
        features: Keys of the features.
        items: Keys of the items.
        erased: Whether the user's rankings are deleted, too, rather than given to another user.
    """

    tenant: str
    user: str | None = None
    features: Sequence[bytes] = ()
    items: Sequence[bytes] = ()
    erased: bool = True

    def parts(self) -> Iterator[dict[str, Any]]:
        """Yield the deletion as details of changes, each with a limited number of keys."""
        features, items = [key.hex() for key in self.features], [key.hex() for key in self.items]
        for start in range(0, max(len(features), len(items), 1), _MAX_KEYS):
            part = slice(start, start + _MAX_KEYS)
            yield {
                "user": self.user,
                "features": features[part],
                "items": items[part],
                "erased": self.erased,
            }

    @classmethod
    def from_detail(cls, tenant: str, detail: Mapping[str, Any]) -> "Deletion":
        """Return the deletion that the detail of a change describes."""
        features, items = (tuple(map(bytes.fromhex, detail.get(name, ()))) for name in ("features", "items"))
        return cls(tenant, detail.get("user"), features, items, detail.get("erased", True))


def announce(connection: Connection, deletion: Deletion, now: float) -> None:
    """Notify the other servers of a shared store, when the caller's transaction commits."""
    for part in deletion.parts():
        feed.append(connection, deletion.tenant, CHANGE, part, now)


class CacheInvalidator:
    """Drops deleted data from the caches of one server.

    Args:
        loop: Event loop that owns all caches except those of states.
        models: Models of this server, which cache states of users, features of texts, and items.
        relevance: Cache of the relevance model's scores. None without a relevance model.
        rankings: Cache of recent rankings.
        erase: Function that deletes rankings of a tenant from the store by their ids. Rankings of a user that another
            server deletes may not have been written yet.
        telemetry: Telemetry, which hashes users.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        models: Models,
        relevance: RelevanceScorer | None,
        rankings: Rankings,
        erase: Callable[[str, Sequence[str]], None],
        telemetry: Telemetry,
    ) -> None:
        self._loop = loop
        self._models = models
        self._relevance = relevance
        self._rankings = rankings
        self._erase = erase
        self._telemetry = telemetry

    def invalidate(self, deletion: Deletion, user: str | None) -> None:
        """Drop what this server has deleted, soon on the event loop. Any thread may call this.

        Args:
            deletion: The deleted data.
            user: Id of the deleted user, whose states the caller has dropped. None if the user still exists.
        """
        users = [] if user is None else [(deletion.tenant, user)]
        self._loop.call_soon_threadsafe(self._drop, deletion, users, False)

    def handle(self, change: Change) -> None:
        """Drop the data that another server deleted. For the kind "all", drop everything.

        Cost: a hash of each cached user if a user was deleted. The feed's thread computes them, so that nobody waits.
        """
        if change.kind == ALL:
            for model in self._models.held:
                model.cache.clear()
            self._loop.call_soon_threadsafe(self._drop_all)
        else:
            deletion = Deletion.from_detail(change.tenant, change.detail)
            users = []
            if deletion.user is not None:
                for model in self._models.held:
                    model.cache.drop(lambda key: self._is_deleted(deletion, *key))
                users = [key for key in self._rankings.list_users() if self._is_deleted(deletion, *key)]
            self._loop.call_soon_threadsafe(self._drop, deletion, users, deletion.erased)

    def _drop(self, deletion: Deletion, users: Sequence[UserKey], erase: bool) -> None:
        """Drop data from the caches, and the rankings of users from memory.

        With `erase` those rankings leave the store, too: this server may have written one after another server deleted
        the user.
        """
        for model in self._models.held:
            model.source.cache.remove(deletion.tenant, deletion.features)
            model.describer.remove(deletion.tenant, deletion.items)
        if self._relevance is not None:
            self._relevance.remove(deletion.tenant, deletion.items)
        for key in users:
            dropped = self._rankings.drop(*key)
            if dropped and erase:
                self._erase(deletion.tenant, dropped)

    def _drop_all(self) -> None:
        for model in self._models.held:
            model.source.cache.clear()
            model.describer.clear()
        if self._relevance is not None:
            self._relevance.clear()
        for key in self._rankings.list_users():
            self._rankings.drop(*key)

    def _is_deleted(self, deletion: Deletion, tenant: str, user: str) -> bool:
        return tenant == deletion.tenant and self._telemetry.hash_user(tenant, user) == deletion.user
