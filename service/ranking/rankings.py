"""What was shown under a `rank_id`, so that feedback can name a candidate by its index for a day."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final

import orjson

from penchant.service.access.tenancy import Tenancy
from penchant.service.cache import BoundedCache
from penchant.service.store.database import Store
from penchant.service.store.requests import find_ranking
from penchant.service.store.statements import AnyRow

_OVERHEAD_BYTES: Final = 300


@dataclass(frozen=True)
class Ranking:
    """A ranking that was answered.

    Attributes:
        tenant: Whose app asked.
        rank_id: Its join key.
        user: For whom; None for the population.
        prompts: One for all texts, or one a text.
        texts: n candidates in the order of the request.
        created_at: Unix seconds.
    """

    tenant: str
    rank_id: str
    user: str | None
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    created_at: float

    @property
    def size(self) -> int:
        """Bytes held, roughly."""
        return sum(map(len, self.texts)) + sum(map(len, self.prompts)) + _OVERHEAD_BYTES

    def shown(self, index: int) -> tuple[str, str]:
        """Prompt and text of a candidate."""
        return self.prompts[index if len(self.prompts) > 1 else 0], self.texts[index]

    def row(self) -> dict[str, Any]:
        """Its row in the store."""
        return {
            "tenant": self.tenant,
            "rank_id": self.rank_id,
            "user_id": self.user,
            "shown": orjson.dumps({"prompts": self.prompts, "texts": self.texts}),
            "created_at": self.created_at,
        }


def new_rank_id() -> str:
    """A join key that cannot be guessed."""
    return f"rank_{secrets.token_urlsafe(16)}"


class Rankings:
    """Recent rankings in memory over those in the store.

    Args:
        max_bytes: Bound of the memory.
        ttl_seconds: How long a ranking can be referred to.
        write: Hands a ranking to the writer, without waiting; what to call when that is done with it.
        tenancy: Whether a tenant keeps texts; rankings of one that does not stay in the memory of this server.
        store: Asked for what is not in memory.
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

    def remember(
        self, tenant: str, rank_id: str, user: str | None, prompts: tuple[str, ...], texts: tuple[str, ...]
    ) -> None:
        """Keeps a ranking and has it written soon."""
        one = prompts[:1] if prompts.count(prompts[0]) == len(prompts) else prompts
        ranking = Ranking(tenant, rank_id, user, one, texts, self._store.clock())
        key = (tenant, rank_id)
        self._recent.put(key, ranking)
        if not self._tenancy.get(tenant).keep_texts:
            return
        self._unwritten[key] = ranking
        self._write(ranking, lambda: self._unwritten.pop(key, None))

    async def find(self, tenant: str, rank_id: str) -> Ranking | None:
        """The ranking under an id, None where it is unknown or too old."""
        key = (tenant, rank_id)
        ranking = self._recent.peek(key) or self._unwritten.get(key)
        if ranking is None:
            row = await self._store.read(find_ranking, tenant, rank_id)
            ranking = None if row is None else _read_row(tenant, rank_id, row)
        if ranking is None or self._store.clock() - ranking.created_at > self._ttl_seconds:
            return None
        return ranking

    def texts_of(self, tenant: str, user: str) -> list[tuple[str, str]]:
        """(prompt, text) of all that memory holds for a user."""
        held = (self._unwritten | dict(self._recent.items())).values()
        mine = [ranking for ranking in held if ranking.tenant == tenant and ranking.user == user]
        return [ranking.shown(index) for ranking in mine for index in range(len(ranking.texts))]

    def drop(self, unwanted: Callable[[str, str], bool]) -> list[str]:
        """Drops rankings for some users from memory; asked with tenant and user. Returns their ids."""
        dropped: dict[str, None] = {}
        for held in (self._recent, self._unwritten):
            for key, ranking in list(held.items()):
                if ranking.user is not None and unwanted(ranking.tenant, ranking.user):
                    self._recent.remove(key)
                    self._unwritten.pop(key, None)
                    dropped[ranking.rank_id] = None
        return list(dropped)

    def rename(self, tenant: str, source: str, user: str) -> None:
        """What was shown to one user was shown to another."""
        for key, ranking in self._recent.items():
            if ranking.tenant == tenant and ranking.user == source:
                self._recent.replace(key, replace(ranking, user=user))
        for key, ranking in self._unwritten.items():
            if ranking.tenant == tenant and ranking.user == source:
                self._unwritten[key] = replace(ranking, user=user)


def _read_row(tenant: str, rank_id: str, row: AnyRow) -> Ranking:
    """The ranking that a row of the store holds."""
    shown = orjson.loads(row.shown)
    prompts, texts = tuple(shown["prompts"]), tuple(shown["texts"])
    return Ranking(tenant, rank_id, row.user_id, prompts, texts, row.created_at)
