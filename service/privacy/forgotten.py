"""What a server holds in memory of users and their texts, and dropping it when they are forgotten, here or elsewhere."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from penchant.service.bundles.served_model import Models
from penchant.service.feed import ALL
from penchant.service.ranking.rankings import Rankings
from penchant.service.store import feed
from penchant.service.store.feed import Change
from penchant.service.telemetry.metrics import Telemetry

KIND: Final = "forget"
"""Of the changes that tell other servers what to drop."""

_KEYS: Final = 1000
"""In one change."""


@dataclass(frozen=True)
class Forgotten:
    """What nobody may remember any more.

    Attributes:
        tenant: Whose it was.
        user: Hash of the user who is gone, as logs know users; None where the user is still there.
        features: Keys of features.
        items: Keys of items.
        erased: Whether what was shown to the user is gone too, rather than somebody else's now.
    """

    tenant: str
    user: str | None = None
    features: Sequence[bytes] = ()
    items: Sequence[bytes] = ()
    erased: bool = True

    def parts(self) -> Iterator[dict[str, Any]]:
        """The same as details of changes, none of them long."""
        features, items = [key.hex() for key in self.features], [key.hex() for key in self.items]
        for start in range(0, max(len(features), len(items), 1), _KEYS):
            part = slice(start, start + _KEYS)
            yield {
                "user": self.user,
                "features": features[part],
                "items": items[part],
                "erased": self.erased,
            }

    @classmethod
    def read(cls, tenant: str, detail: Mapping[str, Any]) -> "Forgotten":
        """One of the parts."""
        features, items = (tuple(map(bytes.fromhex, detail.get(name, ()))) for name in ("features", "items"))
        return cls(tenant, detail.get("user"), features, items, detail.get("erased", True))


def announce(connection: Connection, forgotten: Forgotten, now: float) -> None:
    """Tells the other servers of a shared store, once the caller's transaction is durable."""
    for part in forgotten.parts():
        feed.append(connection, forgotten.tenant, KIND, part, now)


class Memories:
    """The caches of one server.

    Args:
        loop: To which all but the states belong.
        models: Each remembers states of users, features of texts, and items.
        rankings: What was shown.
        erase: Removes rankings of a tenant from the store, by their ids: another server's deletion may have come
            before they were written here.
        telemetry: Knows the users' hashes.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        models: Models,
        rankings: Rankings,
        erase: Callable[[str, Sequence[str]], None],
        telemetry: Telemetry,
    ) -> None:
        self._loop = loop
        self._models = models
        self._rankings = rankings
        self._erase = erase
        self._telemetry = telemetry

    def forget(self, forgotten: Forgotten, *, heard: bool = False) -> None:
        """Drops what was forgotten, on the event loop; of states at once. Any thread may call this.

        Args:
            forgotten: What it is.
            heard: Whether another server did it.
        """
        if forgotten.user is not None:
            for model in self._models.held:
                model.cache.drop(lambda key: self._is(forgotten, *key))
        self._loop.call_soon_threadsafe(self._drop, forgotten, heard)

    def hear(self, change: Change) -> None:
        """What another server forgot, or (kind "all") may have forgotten."""
        if change.kind == ALL:
            for model in self._models.held:
                model.cache.clear()
            self._loop.call_soon_threadsafe(self._drop_all)
        else:
            forgotten = Forgotten.read(change.tenant, change.detail)
            self.forget(forgotten, heard=True)

    def _drop(self, forgotten: Forgotten, heard: bool) -> None:
        for model in self._models.held:
            model.source.cache.forget(forgotten.tenant, forgotten.features)
            model.describer.forget(forgotten.tenant, forgotten.items)
        if forgotten.user is not None:
            dropped = self._rankings.drop(lambda tenant, user: self._is(forgotten, tenant, user))
            if dropped and heard and forgotten.erased:
                self._erase(forgotten.tenant, dropped)

    def _drop_all(self) -> None:
        for model in self._models.held:
            model.source.cache.clear()
            model.describer.clear()
        self._rankings.drop(lambda _tenant, _user: True)

    def _is(self, forgotten: Forgotten, tenant: str, user: str) -> bool:
        return tenant == forgotten.tenant and self._telemetry.hash_user(tenant, user) == forgotten.user
