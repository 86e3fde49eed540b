"""Features of texts and prompts, taken from memory, the store or the encoder, whichever is cheapest, and their match."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.features import FeatureExtractor, TextFeatures, join_vectors
from penchant.models.encoding.match import name_version
from penchant.service.cache import BoundedCache
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.encoding.relevance import RelevanceScorer
from penchant.service.store.database import Store
from penchant.service.store.features import find_features
from penchant.service.telemetry.metrics import Telemetry, Timings

OVERHEAD_BYTES: Final = 400
"""Memory of an entry in addition to its numbers, in bytes: key, tuple, array header, dictionary slot."""

INLINE_PAIRS: Final = 64
"""Largest number of texts whose match is computed on the event loop."""

INLINE_CHARS: Final = 20_000
"""Largest number of characters whose match is computed on the event loop, which takes about two milliseconds."""


class FeatureCache:
    """A cache of features by tenant and content key. Not thread-safe: it belongs to the event loop.

    Args:
        max_bytes: Largest memory of all entries together, in bytes. 0 disables the cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: BoundedCache[tuple[str, bytes], TextFeatures] = BoundedCache(
            max_bytes, size=_compute_memory
        )

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Memory of all entries together, in bytes."""
        return self._entries.size

    def get(self, tenant: str, key: bytes) -> TextFeatures | None:
        """Return the features of a key and mark them as used. Return None if they are not cached."""
        return self._entries.get((tenant, key))

    def put(self, tenant: str, key: bytes, feature: TextFeatures) -> None:
        """Add features, and drop the least recently used ones while the limit is exceeded."""
        self._entries.put((tenant, key), feature)

    def remove(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Remove the features of some keys of a tenant."""
        for key in keys:
            self._entries.remove((tenant, key))

    def clear(self) -> None:
        """Remove all features."""
        self._entries.clear()


def _compute_memory(feature: TextFeatures) -> int:
    windows = 0 if feature.several is None else feature.several.nbytes
    return feature.vector.nbytes + windows + OVERHEAD_BYTES


@dataclass(frozen=True)
class FeatureBatch:
    """Features of n texts, and their match with their prompts.

    Attributes:
        keys: n content keys.
        vectors: Feature vectors of the texts alone, `[n, dim]`.
        tokens: Number of tokens that the encoder read, `[n]`.
        truncated: Whether the encoder read only the beginning of the text, `[n]`.
        windows: Embeddings of each text's windows, n arrays `[w, encoder.dim]`.
        match: Match features, `[n, w]`. NaN stands for unknown. Without columns if prompts are not read.
        prompt_embeddings: Embeddings of the texts' prompts, `[n, E]`, NaN for a blank one. Without columns unless the
            model has a gate.
        prompt_keys: Content key of each text's prompt. None for a blank prompt, and if prompts are not read.
        prompts: Features of the distinct prompts, by content key.
    """

    keys: tuple[bytes, ...]
    vectors: NDArray[np.float16]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: tuple[NDArray[np.float16], ...]
    match: NDArray[np.float16]
    prompt_embeddings: NDArray[np.float16]
    prompt_keys: tuple[bytes | None, ...]
    prompts: Mapping[bytes, TextFeatures]

    @property
    def raw(self) -> NDArray[np.float16]:
        """Raw vectors of the texts with their match, as a reward model reads them, `[n, width]`."""
        return join_vectors(self.vectors, self.match, self.prompt_embeddings)


class Featurizer:
    """A source of the features of texts: memory, the store or the encoder. Tenants never share cached features.

    Args:
        extractor: Extractor that defines the content keys. Only the batcher may use its encoder.
        batcher: Batcher that computes features that are neither cached nor stored.
        cache: Cache of features in memory.
        store: Store of the features of judged texts.
        telemetry: Metrics and traces.
        relevance: Source of the match feature `relevance`. None without one.

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
        relevance: RelevanceScorer | None = None,
    ) -> None:
        self.extractor = extractor
        self._relevance = relevance
        self._batcher = batcher
        self._cache = cache
        self._store = store
        self._telemetry = telemetry

    @property
    def match_version(self) -> str:
        """Version of the match features, from `name_version`; empty if prompts are not read."""
        version = self.extractor.match_version
        return version if self._relevance is None else name_version(version, self._relevance.model)

    async def get_features(
        self, tenant: str, texts: Sequence[str], prompts: Sequence[str], timings: Timings
    ) -> FeatureBatch:
        """Return the features of n texts, each an answer to one of n prompts, and how they match their prompts.

        A prompt is looked up and encoded together with the texts, as a text of its own. A joint encoder reads each text
        with its prompt instead, and a model without match features does not read prompts at all.

        Raises:
            OverloadedError: If the encoder's queue is full.
            ApiError: If the encoder fails.

        Cost: n hashes if all are cached; otherwise also one query for the others, and an encoder pass for those that
            are not stored either. The match costs about 0.02 ms a text and 0.1 ms per KB of text, and a pass of the
            relevance model, if there is one, over the pairs whose scores are not cached.
        """
        key = self.extractor.key
        keys = tuple(key(text, prompt) for text, prompt in zip(texts, prompts, strict=True))
        wanted = dict(zip(keys, zip(texts, prompts, strict=True), strict=True))
        prompt_keys: tuple[bytes | None, ...] = (None,) * len(keys)
        if self.extractor.reads_prompts:
            by_prompt = {prompt: key(prompt) for prompt in set(prompts) if prompt.strip()}
            prompt_keys = tuple(by_prompt.get(prompt) for prompt in prompts)
            wanted |= {k: (prompt, "") for prompt, k in by_prompt.items()}
        features = await self._find_features(tenant, wanted, timings)
        rows = [features[k] for k in keys]
        scores = None
        if self._relevance is not None and self.extractor.reads_prompts:
            scores = await self._relevance.get_scores(tenant, prompts, texts, timings)
        vectors, windows = np.stack([row.vector for row in rows]), tuple(row.windows for row in rows)
        prompt_vectors = np.stack([vectors[0] if k is None else features[k].vector for k in prompt_keys])
        return FeatureBatch(
            keys,
            vectors,
            np.array([row.tokens for row in rows], np.int64),
            np.array([row.truncated for row in rows], np.bool_),
            windows,
            await self._compute_match(prompts, texts, prompt_vectors, windows, scores),
            self.extractor.get_prompt_embeddings(prompts, prompt_vectors),
            prompt_keys,
            {k: features[k] for k in prompt_keys if k is not None},
        )

    async def _find_features(
        self, tenant: str, wanted: Mapping[bytes, tuple[str, str]], timings: Timings
    ) -> dict[bytes, TextFeatures]:
        """Return the features of (text, prompt) pairs by content key, and cache them."""
        features = {k: feature for k in wanted if (feature := self._cache.get(tenant, k)) is not None}
        self._telemetry.cache_hits.inc(len(features))
        missing = {k: pair for k, pair in wanted.items() if k not in features}
        if missing:
            self._telemetry.cache_misses.inc(len(missing))
            features |= await self._store.read(find_features, tenant, self.extractor.identity, list(missing))
            not_stored = {k: pair for k, pair in missing.items() if k not in features}
            if not_stored:
                features |= await self._encode(not_stored, timings)
            for k in missing:
                self._cache.put(tenant, k, features[k])
            self._telemetry.cache_bytes.set(self._cache.size)
        return features

    async def _encode(
        self, wanted: Mapping[bytes, tuple[str, str]], timings: Timings
    ) -> dict[bytes, TextFeatures]:
        with self._telemetry.tracing.span("encode", texts=len(wanted)):
            pairs = wanted.values()
            extracted = await self._batcher.extract(
                [text for text, _ in pairs], [prompt for _, prompt in pairs]
            )
        timings.queue += extracted.queue_seconds
        timings.encode += extracted.encode_seconds
        batch = extracted.features
        return {
            # Copies the rows, so that a cached text does not keep its whole batch in memory.
            k: TextFeatures(
                batch.vectors[i].copy(),
                int(batch.tokens[i]),
                bool(batch.truncated[i]),
                batch.windows[i].copy() if len(batch.windows[i]) > 1 else None,
            )
            for i, k in enumerate(wanted)
        }

    async def _compute_match(
        self,
        prompts: Sequence[str],
        texts: Sequence[str],
        prompt_vectors: NDArray[np.float16],
        windows: Sequence[NDArray[np.float16]],
        relevance: NDArray[np.float16] | None,
    ) -> NDArray[np.float16]:
        """Return the match features. Those of many or long texts are computed in a thread, not on the event loop."""
        compute = partial(
            self.extractor.compute_match,
            prompts,
            texts,
            prompt_vectors,
            windows,
            relevance=relevance,
        )
        is_quick = len(texts) <= INLINE_PAIRS and sum(map(len, texts)) <= INLINE_CHARS
        return compute() if is_quick or not self.extractor.reads_prompts else await asyncio.to_thread(compute)
