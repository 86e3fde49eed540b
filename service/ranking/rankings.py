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

_OVERHEAD_BYTES: Final = 300


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
        self._recent: BoundedCache[tuple[str, str], Ranking] = BoundedCache(
            max_bytes, size=attrgetter("size"), min_entries=1
        )
        self._unwritten: dict[tuple[str, str], Ranking] = {}

    def add(
        self, tenant: str, rank_id: str, user: str | None, prompts: tuple[str, ...], texts: tuple[str, ...]
    ) -> None:
        """Cache a ranking and pass it to the writer. Only cache it if the tenant keeps no texts."""
        if prompts.count(prompts[0]) == len(prompts):
            prompts = prompts[:1]
        ranking = Ranking.create(tenant, rank_id, user, (prompts, texts), self._store.clock())
        key = (tenant, rank_id)
        self._recent.put(key, ranking)
        if not self._tenancy.get(tenant).keep_texts:
            return
        self._unwritten[key] = ranking
        self._write(ranking, lambda: self._unwritten.pop(key, None))

    async def find(self, tenant: str, rank_id: str) -> Ranking | None:
        """Return a ranking. Return None if it is unknown or older than the time limit."""
        key = (tenant, rank_id)
        ranking = self._recent.peek(key) or self._unwritten.get(key)
        if ranking is None:
            row = await self._store.read(find_ranking, tenant, rank_id)
            ranking = None if row is None else _read_row(tenant, rank_id, row)
        if ranking is None or self._store.clock() - ranking.created_at > self._ttl_seconds:
            return None
        return ranking

    def find_texts(self, tenant: str, user: str) -> list[tuple[str, str]]:
        """Return the (prompt, text) of each candidate in a user's rankings that are in memory."""
        in_memory = (self._unwritten | dict(self._recent.items())).values()
        rankings = [ranking for ranking in in_memory if ranking.tenant == tenant and ranking.user == user]
        return [ranking.get_candidate(index) for ranking in rankings for index in range(len(ranking.texts))]

    def drop(self, is_unwanted: Callable[[str, str], bool]) -> list[str]:
        """Drop the rankings of some users from memory, and return their ids.

        Args:
            is_unwanted: Function of tenant and user that returns whether to drop the user's rankings.
        """
        dropped: dict[str, None] = {}
        for rankings in (self._recent, self._unwritten):
            for key, ranking in list(rankings.items()):
                if ranking.user is not None and is_unwanted(ranking.tenant, ranking.user):
                    self._recent.remove(key)
                    self._unwritten.pop(key, None)
                    dropped[ranking.rank_id] = None
        return list(dropped)

    def reassign(self, tenant: str, source: str, user: str) -> None:
        """Reassign the rankings in memory of the user `source` to `user`."""
        for key, ranking in self._recent.items():
            if ranking.tenant == tenant and ranking.user == source:
                self._recent.replace(key, replace(ranking, user=user))
        for key, ranking in self._unwritten.items():
            if ranking.tenant == tenant and ranking.user == source:
                self._unwritten[key] = replace(ranking, user=user)


def _read_row(tenant: str, rank_id: str, row: AnyRow) -> Ranking:
    """Return the ranking of a row in the store."""
    candidates = orjson.loads(row.shown)
    shown = tuple(candidates["prompts"]), tuple(candidates["texts"])
    return Ranking.create(tenant, rank_id, row.user_id, shown, row.created_at)
