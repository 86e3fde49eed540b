"""Features of texts, taken from memory, the store or the encoder, whichever is cheapest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.features import FeatureExtractor, get_embedding
from penchant.service.cache import BoundedCache
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.store.database import Store
from penchant.service.store.features import find_features
from penchant.service.telemetry.metrics import Telemetry, Timings

OVERHEAD_BYTES: Final = 400
"""Memory of an entry in addition to its numbers, in bytes: key, tuple, array header, dictionary slot."""


@dataclass(frozen=True, slots=True)
class CachedFeature:
    """Features of one text.

    Attributes:
        vector: Feature vector, `[dim]`.
        tokens: Number of tokens that the encoder read.
        truncated: Whether the encoder read only the beginning of the text.
        several: Embeddings of the windows of a text of several windows, `[w, encoder.dim]`. None for any other text.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool
    several: NDArray[np.float16] | None = None

    @property
    def windows(self) -> NDArray[np.float16]:
        """Embeddings of the text's windows, `[w, encoder.dim]`. A single window is a view of the vector."""
        return get_embedding(self.vector) if self.several is None else self.several


class FeatureCache:
    """A cache of features by tenant and content key. Not thread-safe: it belongs to the event loop.

    Args:
        max_bytes: Largest memory of all entries together, in bytes. 0 disables the cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: BoundedCache[tuple[str, bytes], CachedFeature] = BoundedCache(
            max_bytes, size=_compute_memory
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

    def remove(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Remove the features of some keys of a tenant."""
        for key in keys:
            self._entries.remove((tenant, key))

    def clear(self) -> None:
        """Remove all features."""
        self._entries.clear()


def _compute_memory(feature: CachedFeature) -> int:
    windows = 0 if feature.several is None else feature.several.nbytes
    return feature.vector.nbytes + windows + OVERHEAD_BYTES


@dataclass(frozen=True)
class FeatureBatch:
    """Features of n texts.

    Attributes:
        keys: n content keys.
        vectors: Feature vectors, `[n, dim]`.
        tokens: Number of tokens that the encoder read, `[n]`.
        truncated: Whether the encoder read only the beginning of the text, `[n]`.
        windows: Embeddings of each text's windows, n arrays `[w, encoder.dim]`.
    """

    keys: tuple[bytes, ...]
    vectors: NDArray[np.float16]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: tuple[NDArray[np.float16], ...]


class Featurizer:
    """A source of the features of texts: memory, the store or the encoder. Tenants never share cached features.

    Args:
        extractor: Extractor that defines the content keys. Only the batcher may use its encoder.
        batcher: Batcher that computes features that are neither cached nor stored.
        cache: Cache of features in memory.
        store: Store of the features of judged texts.
        telemetry: Metrics and traces.

    Attributes:
        extractor: Extractor that defines the content keys.
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

    async def get_features(
        self, tenant: str, texts: Sequence[str], prompts: Sequence[str], timings: Timings
    ) -> FeatureBatch:
        """Return the features of n texts, each an answer to one of n prompts. Only a joint encoder reads the prompts.

        Raises:
            OverloadedError: If the encoder's queue is full.
            ApiError: If the encoder fails.

        Cost: n hashes if all are cached; otherwise also one query for the others, and an encoder pass for those that
            are not stored either.
        """
        key = self.extractor.key
        keys = tuple(key(text, prompt) for text, prompt in zip(texts, prompts, strict=True))
        features = {k: feature for k in keys if (feature := self._cache.get(tenant, k)) is not None}
        missing = {k: i for i, k in enumerate(keys) if k not in features}
        self._telemetry.cache_hits.inc(len(keys) - len(missing))
        if missing:
            self._telemetry.cache_misses.inc(len(missing))
            features |= await self._load_features(tenant, list(missing))
            not_stored = [i for k, i in missing.items() if k not in features]
            if not_stored:
                features |= await self._encode(keys, texts, prompts, not_stored, timings)
            for k in missing:
                self._cache.put(tenant, k, features[k])
            self._telemetry.cache_bytes.set(self._cache.size)
        rows = [features[k] for k in keys]
        return FeatureBatch(
            keys,
            np.stack([row.vector for row in rows]),
            np.array([row.tokens for row in rows], np.int64),
            np.array([row.truncated for row in rows], np.bool_),
            tuple(row.windows for row in rows),
        )

    async def _load_features(self, tenant: str, keys: Sequence[bytes]) -> dict[bytes, CachedFeature]:
        rows = await self._store.read(find_features, tenant, self.extractor.identity, keys)
        return {
            k: CachedFeature(row.vector, row.tokens, row.truncated, row.several) for k, row in rows.items()
        }

    async def _encode(
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
        batch = extracted.features
        return {
            # Copies the rows, so that a cached text does not keep its whole batch in memory.
            keys[i]: CachedFeature(
                batch.vectors[j].copy(),
                int(batch.tokens[j]),
                bool(batch.truncated[j]),
                batch.windows[j].copy() if len(batch.windows[j]) > 1 else None,
            )
            for j, i in enumerate(rows)
        }
