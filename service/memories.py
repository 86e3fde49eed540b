"""What a server holds in memory of users and their texts, and dropping it when they are forgotten, here or elsewhere."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from penchant.service.describer import Describer
from penchant.service.feature_cache import FeatureCache
from penchant.service.feed import ALL
from penchant.service.rankings import Rankings
from penchant.service.states import StateCache
from penchant.service.store import feed
from penchant.service.store.feed import Change
from penchant.service.telemetry import Telemetry

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
    """

    tenant: str
    user: str | None = None
    features: Sequence[bytes] = ()
    items: Sequence[bytes] = ()

    def parts(self) -> Iterator[dict[str, Any]]:
        """The same as details of changes, none of them long."""
        features, items = [key.hex() for key in self.features], [key.hex() for key in self.items]
        for start in range(0, max(len(features), len(items), 1), _KEYS):
            part = slice(start, start + _KEYS)
            yield {"user": self.user, "features": features[part], "items": items[part]}

    @classmethod
    def read(cls, tenant: str, detail: Mapping[str, Any]) -> "Forgotten":
        """One of the parts."""
        features, items = (tuple(map(bytes.fromhex, detail.get(name, ()))) for name in ("features", "items"))
        return cls(tenant, detail.get("user"), features, items)


def announce(connection: Connection, forgotten: Forgotten, now: float) -> None:
    """Tells the other servers of a shared store, once the caller's transaction is durable."""
    for part in forgotten.parts():
        feed.append(connection, forgotten.tenant, KIND, part, now)


class Memories:
    """The caches of one server.

    Args:
        loop: To which all but the states belong.
        states: States of users.
        features: Features of texts.
        describer: Items.
        rankings: What was shown.
        telemetry: Knows the users' hashes.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        states: StateCache,
        features: FeatureCache,
        describer: Describer,
        rankings: Rankings,
        telemetry: Telemetry,
    ) -> None:
        self._loop = loop
        self._states = states
        self._features = features
        self._describer = describer
        self._rankings = rankings
        self._telemetry = telemetry

    def forget(self, forgotten: Forgotten) -> None:
        """Drops what was forgotten, on the event loop; of states at once. Any thread may call this."""
        if forgotten.user is not None:
            self._states.drop(lambda key: self._is(forgotten, *key))
        self._loop.call_soon_threadsafe(self._drop, forgotten)

    def hear(self, change: Change) -> None:
        """What another server forgot, or (kind "all") may have forgotten."""
        if change.kind == ALL:
            self._states.clear()
            self._loop.call_soon_threadsafe(self._drop_all)
        else:
            self.forget(Forgotten.read(change.tenant, change.detail))

    def _drop(self, forgotten: Forgotten) -> None:
        self._features.forget(forgotten.tenant, forgotten.features)
        self._describer.forget(forgotten.tenant, forgotten.items)
        if forgotten.user is not None:
            self._rankings.drop(lambda tenant, user: self._is(forgotten, tenant, user))

    def _drop_all(self) -> None:
        self._features.clear()
        self._describer.clear()
        self._rankings.drop(lambda _tenant, _user: True)

    def _is(self, forgotten: Forgotten, tenant: str, user: str) -> bool:
        return tenant == forgotten.tenant and self._telemetry.hash_user(tenant, user) == forgotten.user
