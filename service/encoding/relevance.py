"""Scores of texts as answers to prompts by the operator's cross-encoder, batched and cached as features are."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.cross_encoder import CrossEncoder
from penchant.models.encoding.features import CHARS_PER_TOKEN, Features, ReadText
from penchant.models.encoding.tokens import Tokens
from penchant.models.taste.items import item_keys
from penchant.service.cache import BoundedCache
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.settings import Settings
from penchant.service.telemetry.metrics import Telemetry, Timings

SCORE_BYTES: Final = 300
"""Memory of a cached score with its key, in bytes."""

_NO_ATTRIBUTES: Final = np.zeros(0, np.float32)
_NO_WINDOWS: Final = np.zeros((0, 0), np.float16)
_LARGEST: Final = float(np.finfo(np.float16).max)


class PairExtractor:
    """A cross-encoder as a batcher runs it: the features of a text are its score as an answer to its prompt.

    Args:
        encoder: The cross-encoder.

    Attributes:
        encoder: The cross-encoder.
    """

    def __init__(self, encoder: CrossEncoder) -> None:
        self.encoder = encoder

    def estimate(self, text: str) -> int:
        """Estimate how many tokens of a text, without its prompt, the cross-encoder will read."""
        return min(self.encoder.max_tokens, 1 + len(text) // CHARS_PER_TOKEN)

    def read(self, texts: Sequence[str], prompts: Sequence[str]) -> list[ReadText]:
        """Tokenize pairs: the first step."""
        pairs = zip(texts, prompts, self.encoder.tokenize(prompts, texts).split(), strict=True)
        return [ReadText(text, prompt, _NO_ATTRIBUTES, own, len(own.ids)) for text, prompt, own in pairs]

    def encode(self, texts: Sequence[ReadText]) -> Features:
        """Score pairs: the second step. The score is a vector of one number in float16.

        Raises:
            EncoderError: If a score is not finite.
        """
        tokens = Tokens.join([text.tokens for text in texts if text.tokens is not None])
        scores = np.clip(self.encoder.score_tokens(tokens), -_LARGEST, _LARGEST)
        sizes = np.array([text.size for text in texts], np.int64)
        vectors = scores.astype(np.float16)[:, None]
        return Features(vectors, sizes, tokens.truncated, (_NO_WINDOWS,) * len(texts))


class RelevanceScorer:
    """A source of scores: memory or the cross-encoder. Tenants never share cached scores.

    Not thread-safe: it belongs to the event loop.

    Args:
        encoder: The cross-encoder. Only the batcher may use it.
        settings: Limits of the queue, of a batch and of the cache.
        telemetry: Metrics and traces. The batches count as batches of the encoder.

    Attributes:
        model: Identity of the cross-encoder.
        batcher: Batcher that runs the cross-encoder. The caller starts and stops it.
    """

    def __init__(self, encoder: CrossEncoder, settings: Settings, telemetry: Telemetry) -> None:
        self.model = encoder.identity
        self.batcher = MicroBatcher(PairExtractor(encoder), settings, telemetry)
        self._telemetry = telemetry
        self._cache: BoundedCache[tuple[str, bytes], np.float16] = BoundedCache(
            settings.relevance_cache_bytes, size=lambda _score: SCORE_BYTES
        )

    async def get_scores(
        self, tenant: str, prompts: Sequence[str], texts: Sequence[str], timings: Timings
    ) -> NDArray[np.float16]:
        """Return the scores `[n]` of n texts as answers to n prompts; NaN for a blank prompt.

        Raises:
            OverloadedError: If the cross-encoder's queue is full.
            ApiError: If the cross-encoder fails.

        Cost: n hashes if all are cached; otherwise also one pass of the cross-encoder over the others.
        """
        keys = item_keys(prompts, texts)
        scores: dict[bytes, np.float16] = {}
        missing: dict[bytes, int] = {}
        for i, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
            cached = self._cache.get((tenant, key)) if prompt.strip() else np.float16(np.nan)
            if cached is None:
                missing[key] = i
            else:
                scores[key] = cached
        self._telemetry.relevance_hits.inc(sum(bool(prompt.strip()) for prompt in prompts) - len(missing))
        if missing:
            self._telemetry.relevance_misses.inc(len(missing))
            rows = list(missing.values())
            with self._telemetry.tracing.span("relevance", texts=len(rows)):
                extracted = await self.batcher.extract([texts[i] for i in rows], [prompts[i] for i in rows])
            timings.queue += extracted.queue_seconds
            timings.encode += extracted.encode_seconds
            for key, score in zip(missing, extracted.features.vectors[:, 0], strict=True):
                scores[key] = score
                self._cache.put((tenant, key), score)
        return np.array([scores[key] for key in keys], np.float16)

    def remove(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Remove the scores of some item keys of a tenant from the cache."""
        for key in keys:
            self._cache.remove((tenant, key))

    def clear(self) -> None:
        """Remove all scores from the cache."""
        self._cache.clear()
