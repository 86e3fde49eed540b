"""Turns texts into items of the user model, and caches the items of texts that recur."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from penchant.models.taste.items import Items, item_keys
from penchant.models.taste.reward import RewardModel
from penchant.service.cache import BoundedCache
from penchant.service.encoding.featurizer import Featurizer
from penchant.service.telemetry.metrics import Telemetry, Timings

INLINE_CHARS: Final = 500_000
"""Largest number of characters that are hashed on the event loop, which takes about two milliseconds."""

_OVERHEAD_BYTES: Final = 400


class ItemBatch(NamedTuple):
    """n texts as items of the user model, ready to be ranked.

    Attributes:
        items: n items.
        tokens: Number of tokens that the encoder read, for all texts together.
        truncated: Indices of the texts of which the encoder read only the beginning.
    """

    items: Items
    tokens: int
    truncated: tuple[int, ...]


class _CachedItem(NamedTuple):
    """The cached item of one text.

    Attributes:
        row: Row of `Items.rows` as bytes, because joining bytes is several times faster than stacking arrays.
        tokens: Number of tokens that the encoder read.
        truncated: Whether the encoder read only the beginning of the text.
    """

    row: bytes
    tokens: int
    truncated: bool


class Describer:
    """A source of the items of texts, with a cache. Not thread-safe: it belongs to the event loop.

    Args:
        reward: Model that turns features into items.
        featurizer: Source of the features of texts that are not cached.
        max_bytes: Largest memory of the cached items, in bytes.
        telemetry: Metrics, in which cache hits are counted.

    Attributes:
        featurizer: Source of the features of texts that are not cached.
    """

    def __init__(
        self, reward: RewardModel, featurizer: Featurizer, max_bytes: int, telemetry: Telemetry
    ) -> None:
        self.featurizer = featurizer
        self._reward = reward
        self._telemetry = telemetry
        self._cache: BoundedCache[tuple[str, bytes], _CachedItem] = BoundedCache(
            max_bytes, size=_compute_memory
        )

    async def describe(
        self, tenant: str, texts: Sequence[str], prompts: Sequence[str], timings: Timings
    ) -> ItemBatch:
        """Return the items of n texts, each an answer to one of n prompts.

        Cost: n hashes if all are cached; otherwise also the features of the others and one `RewardModel.describe`.
        """
        is_long = sum(map(len, texts)) > INLINE_CHARS
        keys = await asyncio.to_thread(item_keys, prompts, texts) if is_long else item_keys(prompts, texts)
        find, cached = self._cache.get, []
        missing: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            item = find((tenant, key))
            if item is None:
                missing[key] = i
            else:
                cached.append(item)
        self._telemetry.cache_hits.inc(len(keys) - len(missing))
        if missing:
            new = await self._describe_missing(tenant, missing, texts, prompts, timings)
            hits = iter(cached)
            cached = [new[key] if key in missing else next(hits) for key in keys]
        rows = np.frombuffer(b"".join([item.row for item in cached]))
        return ItemBatch(
            Items.from_rows(rows.reshape(len(keys), -1), keys),
            sum([item.tokens for item in cached]),
            tuple([i for i, item in enumerate(cached) if item.truncated]),
        )

    async def _describe_missing(
        self,
        tenant: str,
        missing: Mapping[bytes, int],
        texts: Sequence[str],
        prompts: Sequence[str],
        timings: Timings,
    ) -> dict[bytes, _CachedItem]:
        """Compute and cache the items of texts that are not cached. Return them by key."""
        indices = list(missing.values())
        batch = await self.featurizer.get_features(
            tenant, [texts[i] for i in indices], [prompts[i] for i in indices], timings
        )
        rows = self._reward.describe(batch.raw, list(missing)).rows
        new = {
            key: _CachedItem(row.tobytes(), int(tokens), bool(truncated))
            for key, row, tokens, truncated in zip(missing, rows, batch.tokens, batch.truncated, strict=True)
        }
        for key, item in new.items():
            self._cache.put((tenant, key), item)
        return new

    def remove(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Remove the items of some keys of a tenant from the cache."""
        for key in keys:
            self._cache.remove((tenant, key))

    def clear(self) -> None:
        """Remove all items from the cache."""
        self._cache.clear()


def _compute_memory(item: _CachedItem) -> int:
    return len(item.row) + _OVERHEAD_BYTES
