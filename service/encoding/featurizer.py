"""Features of texts, taken from memory, the store or the encoder, whichever is cheapest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.features import FeatureExtractor
from penchant.service.cache import BoundedCache
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.store.database import Store
from penchant.service.store.features import find_features
from penchant.service.telemetry.metrics import Telemetry, Timings

OVERHEAD_BYTES: Final = 400
"""Memory of an entry beside its vector: key, tuple, array header, dictionary slot."""


@dataclass(frozen=True, slots=True)
class CachedFeature:
    """Features of one text.

    Attributes:
        vector: Feature vector, `[dim]`.
        tokens: Number of tokens that the encoder read.
        truncated: Whether the encoder read only the beginning of the text.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool


class FeatureCache:
    """A cache of features by tenant and content key. Not thread-safe: it belongs to the event loop.

    Args:
        max_bytes: Largest memory of all entries together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: BoundedCache[tuple[str, bytes], CachedFeature] = BoundedCache(
            max_bytes, size=_memory_of
        )

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Memory of all entries together, in bytes."""
        return self._entries.size

    def get(self, tenant: str, key: bytes) -> CachedFeature | None:
        """Return the features of a key and mark them as used. Return None if they are not cached."""
        return self._entries.get((tenant, key))

    def put(self, tenant: str, key: bytes, feature: CachedFeature) -> None:
        """Add features, and drop the least recently used ones while the limit is exceeded."""
        self._entries.put((tenant, key), feature)

    def forget(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Remove the features of some keys of a tenant."""
        for key in keys:
            self._entries.remove((tenant, key))

    def clear(self) -> None:
        """Remove all features."""
        self._entries.clear()


def _memory_of(feature: CachedFeature) -> int:
    return feature.vector.nbytes + OVERHEAD_BYTES


@dataclass(frozen=True)
class FeatureBatch:
    """Features of n texts.

    Attributes:
        keys: n content keys.
        vectors: `[n, dim]`.
        tokens: `[n]`.
        truncated: `[n]`.
    """

    keys: tuple[bytes, ...]
    vectors: NDArray[np.float16]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class Featurizer:
    """Features of texts for one tenant at a time.

    Args:
        extractor: Gives keys and dimensions; the batcher owns its encoder.
        batcher: Computes what is not known.
        cache: What is in memory.
        store: Holds features of judged texts.
        telemetry: Counts hits and misses.
    """

    def __init__(
        self,
        *,
        extractor: FeatureExtractor,
        batcher: MicroBatcher,
        cache: FeatureCache,
        store: Store,
        telemetry: Telemetry,
    ) -> None:
        self.extractor = extractor
        self._batcher = batcher
        self._cache = cache
        self._store = store
        self._telemetry = telemetry

    async def features(
        self, tenant: str, texts: Sequence[str], prompts: Sequence[str], timings: Timings
    ) -> FeatureBatch:
        """Features of n texts (n prompts).

        Cost: n hashes where all are in memory; one query for the others; an encoder pass for the unknown.
        """
        key = self.extractor.key
        keys = tuple(key(text, prompt) for text, prompt in zip(texts, prompts, strict=True))
        found = {k: feature for k in keys if (feature := self._cache.get(tenant, k)) is not None}
        missing = {k: i for i, k in enumerate(keys) if k not in found}
        self._telemetry.cache_hits.inc(len(keys) - len(missing))
        if missing:
            self._telemetry.cache_misses.inc(len(missing))
            found |= await self._stored(tenant, list(missing))
            unknown = [i for k, i in missing.items() if k not in found]
            if unknown:
                found |= await self._encoded(keys, texts, prompts, unknown, timings)
            for k in missing:
                self._cache.put(tenant, k, found[k])
            self._telemetry.cache_bytes.set(self._cache.size)
        rows = [found[k] for k in keys]
        return FeatureBatch(
            keys,
            np.stack([row.vector for row in rows]),
            np.array([row.tokens for row in rows], np.int64),
            np.array([row.truncated for row in rows], np.bool_),
        )

    async def _stored(self, tenant: str, keys: Sequence[bytes]) -> dict[bytes, CachedFeature]:
        rows = await self._store.read(find_features, tenant, self.extractor.identity, keys)
        return {k: CachedFeature(row.vector, row.tokens, row.truncated) for k, row in rows.items()}

    async def _encoded(
        self,
        keys: Sequence[bytes],
        texts: Sequence[str],
        prompts: Sequence[str],
        rows: Sequence[int],
        timings: Timings,
    ) -> dict[bytes, CachedFeature]:
        with self._telemetry.tracing.span("encode", texts=len(rows)):
            extracted = await self._batcher.extract([texts[i] for i in rows], [prompts[i] for i in rows])
        timings.queue += extracted.queue_seconds
        timings.encode += extracted.encode_seconds
        new = extracted.features
        return {
            # A copy of each row, so that a cached row does not hold its whole batch in memory.
            keys[i]: CachedFeature(new.vectors[j].copy(), int(new.tokens[j]), bool(new.truncated[j]))
            for j, i in enumerate(rows)
        }
