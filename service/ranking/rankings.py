"""Recent rankings by `rank_id`, so that feedback can refer to a candidate by its index."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from sys import getsizeof
from typing import Any, Final

import orjson

from penchant.service.access.limits import Tenancy
from penchant.service.cache import BoundedCache
from penchant.service.store.database import Store
from penchant.service.store.requests import find_ranking
from penchant.service.store.statements import AnyRow

_Key = tuple[str, str]  # (tenant, rank_id)

_OVERHEAD_BYTES: Final = 600


@dataclass(frozen=True)
class Ranking:
    """A ranking that was returned to a caller.

    Attributes:
        tenant: Tenant whose app requested the ranking.
        rank_id: Id by which feedback refers to the ranking.
        user: User for whom the candidates were ranked. None for the population.
        prompts: One prompt for all texts, or one for each.
        texts: n candidates in the order of the request.
        created_at: Time of the ranking, in Unix seconds.
        size: Memory of the ranking, in bytes.
    """

    tenant: str
    rank_id: str
    user: str | None
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    created_at: float
    size: int

    @classmethod
    def create(
        cls,
        tenant: str,
        rank_id: str,
        user: str | None,
        candidates: tuple[tuple[str, ...], tuple[str, ...]],
        created_at: float,
    ) -> "Ranking":
        """Return a ranking of candidates, given as prompts and texts."""
        prompts, texts = candidates
        size = sum(map(getsizeof, texts)) + sum(map(getsizeof, prompts)) + _OVERHEAD_BYTES
        return cls(tenant, rank_id, user, prompts, texts, created_at, size)

    def get_candidate(self, index: int) -> tuple[str, str]:
        """Return the prompt and the text of a candidate."""
        return self.prompts[index if len(self.prompts) > 1 else 0], self.texts[index]

    def to_row(self) -> dict[str, Any]:
        """Return the ranking's row in the store."""
        shown = orjson.dumps({"prompts": self.prompts, "texts": self.texts})
        return {
            "tenant": self.tenant,
            "rank_id": self.rank_id,
            "user_id": self.user,
            "shown": shown,
            "created_at": self.created_at,
            "size": len(shown),
        }


def create_rank_id() -> str:
    """Return a new random id that cannot be guessed."""
    return f"rank_{secrets.token_urlsafe(16)}"


class Rankings:
    """Recent rankings. The latest ones are in memory, older ones in the store.

    Args:
        max_bytes: Largest memory of the cached rankings, in bytes. The newest ranking is cached whatever its size.
        ttl_seconds: How long feedback can refer to a ranking.
        write: Function that passes a ranking to the writer without waiting, and a callback to call when the writer is
            done with it.
        tenancy: Settings of the tenants. If a tenant keeps no texts, its rankings stay in the memory of this server.
        store: Store of the rankings that are not in memory.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        ttl_seconds: float,
        write: Callable[[Ranking, Callable[[], object]], None],
        tenancy: Tenancy,
        store: Store,
    ) -> None:
        self._ttl_seconds = ttl_seconds
        self._write = write
        self._tenancy = tenancy
        self._store = store
        self._recent: BoundedCache[_Key, Ranking] = BoundedCache(
            max_bytes, size=attrgetter("size"), min_entries=1, on_eviction=self._unlist
        )
        self._unwritten: dict[_Key, Ranking] = {}
        # Keys of what is in either, by (tenant, user), in order. Deleting a user must not search all rankings.
        self._by_user: dict[tuple[str, str], dict[_Key, None]] = {}

    def add(
        self, tenant: str, rank_id: str, user: str | None, prompts: tuple[str, ...], texts: tuple[str, ...]
    ) -> None:
        """Cache a ranking and pass it to the writer. Only cache it if the tenant keeps no texts."""
        if prompts.count(prompts[0]) == len(prompts):
            prompts = prompts[:1]
        ranking = Ranking.create(tenant, rank_id, user, (prompts, texts), self._store.clock())
        key = (tenant, rank_id)
        if user is not None:
            self._by_user.setdefault((tenant, user), {})[key] = None
        self._recent.put(key, ranking)
        if not self._tenancy.get(tenant).keep_texts:
            return
        self._unwritten[key] = ranking
        self._write(ranking, lambda: self._finish_writing(key))

    def _finish_writing(self, key: _Key) -> None:
        ranking = self._unwritten.pop(key, None)
        if ranking is not None:
            self._unlist(key, ranking)

    def _unlist(self, key: _Key, ranking: Ranking) -> None:
        """Remove a ranking from its user's, unless it is still in memory."""
        if ranking.user is None or key in self._recent or key in self._unwritten:
            return
        user = (ranking.tenant, ranking.user)
        keys = self._by_user.get(user, {})
        keys.pop(key, None)
        if not keys:
            self._by_user.pop(user, None)

    def _get(self, key: _Key) -> Ranking | None:
        return self._recent.peek(key) or self._unwritten.get(key)

    async def find(self, tenant: str, rank_id: str) -> Ranking | None:
        """Return a ranking. Return None if it is unknown or older than the time limit."""
        key = (tenant, rank_id)
        ranking = self._get(key)
        if ranking is None:
            row = await self._store.read(find_ranking, tenant, rank_id)
            ranking = None if row is None else _read_row(tenant, rank_id, row)
        if ranking is None or self._store.clock() - ranking.created_at > self._ttl_seconds:
            return None
        return ranking

    def find_texts(self, tenant: str, user: str) -> list[tuple[str, str]]:
        """Return the (prompt, text) of each candidate in a user's rankings that are in memory."""
        rankings = [ranking for key in self._by_user.get((tenant, user), {}) if (ranking := self._get(key))]
        return [ranking.get_candidate(index) for ranking in rankings for index in range(len(ranking.texts))]

    def drop(self, tenant: str, user: str) -> list[str]:
        """Drop the rankings of a user from memory, and return their ids."""
        keys = self._by_user.pop((tenant, user), {})
        for key in keys:
            self._recent.remove(key)
            self._unwritten.pop(key, None)
        return [rank_id for _, rank_id in keys]

    def list_users(self) -> list[tuple[str, str]]:
        """Return the (tenant, user) of all rankings in memory. Any thread may call this."""
        return list(self._by_user)

    def reassign(self, tenant: str, source: str, user: str) -> None:
        """Reassign the rankings in memory of the user `source` to `user`."""
        keys = self._by_user.pop((tenant, source), {})
        for key in keys:
            if (recent := self._recent.peek(key)) is not None:
                self._recent.replace(key, replace(recent, user=user))
            if (unwritten := self._unwritten.get(key)) is not None:
                self._unwritten[key] = replace(unwritten, user=user)
        if keys:
            self._by_user.setdefault((tenant, user), {}).update(keys)


def _read_row(tenant: str, rank_id: str, row: AnyRow) -> Ranking:
    """Return the ranking of a row in the store."""
    candidates = orjson.loads(row.shown)
    shown = tuple(candidates["prompts"]), tuple(candidates["texts"])
    return Ranking.create(tenant, rank_id, row.user_id, shown, row.created_at)
