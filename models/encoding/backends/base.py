"""`Backend`, which computes the forward pass of an encoder, and the test on probes that every backend must pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.batches import Batch, make_batches
from penchant.models.encoding.tokens import Tokens

MIN_COSINE: Final = {"float32": 0.999999, "bfloat16": 0.9999}
"""Smallest cosine between the vectors of a backend and those of torch in float32, for every probe."""

MAX_BATCH_EFFECT: Final = {"float32": 1e-5, "bfloat16": 1e-3}
"""Largest distance between the vectors of a probe that is encoded on its own and in a batch."""

PROBES: Final = (
    "Yes!",
    "",
    "The committee postponed its decision until the report is published.",
    "1. Heat the oven to 180 °C.\n2. Mix flour, sugar and butter.\n3. Bake for 25 minutes.",
    "Die Straßenbahn fährt heute nicht; nehmen Sie bitte den Ersatzbus an der Haltestelle gegenüber.",
    "今天天气很好，我们去公园散步吧。",
    "Сегодня вечером мы собираемся посмотреть новый фильм в кинотеатре.",
    "يبدأ الاجتماع في الساعة التاسعة صباحا.",
    "def mean(xs):\n    return sum(xs) / len(xs)  # fails on an empty list",
    "🎉🎉 so happy for you!!! 🥳",
    "Could you please explain why the second experiment was repeated? I did not follow that part at all. "
    * 3,
    "The harbour was quiet that morning. A few boats rocked against the wall, and somebody had left a lamp burning "
    "in the office over the fish market, where the prices of the day before still stood in chalk. " * 4,
)
"""Texts of many lengths and scripts that backends are tested on."""


class Backend(Protocol):
    """A backend, which computes pooled unit vectors of several batches at a time.

    Attributes:
        name: `torch` or `openvino`.
        precision: Precision of matrix products.
        place: Readable description of the device or threads.
        workers: Number of batches that are computed at the same time.
        most_tokens: Largest number of tokens in a padded batch.
    """

    name: str
    precision: str
    place: str
    workers: int
    most_tokens: int

    def embed(self, batches: Sequence[Batch]) -> list[NDArray[np.float32]]:
        """Return the unit vectors `[b, dim]` of each batch, in order."""
        ...


def embed(backend: Backend, tokens: Tokens, pad: int) -> NDArray[np.float32]:
    """Return the unit vectors `[n, dim]` of n ≥ 1 windows. Cost: one forward pass, with under 16 padding tokens each."""
    batches = make_batches(tokens, workers=backend.workers, most_tokens=backend.most_tokens, pad=pad)
    parts = backend.embed(batches)
    vectors = np.empty((len(tokens.lengths), parts[0].shape[1]), np.float32)
    for batch, part in zip(batches, parts, strict=True):
        vectors[batch.rows] = part
    return vectors


@dataclass(frozen=True)
class Probes:
    """Tokens of the n probes, and their vectors from torch in float32.

    Attributes:
        tokens: Tokens of the probes.
        vectors: Vectors of unit length, `[n, dim]` float32.
    """

    tokens: Tokens
    vectors: NDArray[np.float32]


def find_fault(backend: Backend, probes: Probes, pad: int) -> str | None:
    """Return what is wrong with a backend. None if it agrees with torch and its vectors do not depend on the batch."""
    batched = embed(backend, probes.tokens, pad)
    if batched.shape != probes.vectors.shape or not np.isfinite(batched).all():
        return "its vectors are not finite or have the wrong shape"
    cosine = float(_compute_cosines(batched, probes.vectors).min())
    least = MIN_COSINE[backend.precision]
    if cosine < least:
        return f"the cosine to torch in float32 is {cosine:.7f}, it must be at least {least}"
    separate = np.concatenate([embed(backend, tokens, pad) for tokens in _split_texts(probes.tokens)])
    distance = float(np.linalg.norm(separate - batched, axis=1).max())
    most = MAX_BATCH_EFFECT[backend.precision]
    if distance > most:
        return f"the vector of a text changes by {distance:.2g} between batches, at most {most} is allowed"
    return None


def _compute_cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines of rows, `[n]`, in float64: float32 rounding would be as large as the allowed difference."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosines: NDArray[np.float64] = (a64 * b64).sum(1) / norms
    return cosines


def _split_texts(tokens: Tokens) -> list[Tokens]:
    ends = np.cumsum(tokens.lengths)
    return [
        Tokens.from_sequences([tokens.ids[end - length : end].tolist()])
        for end, length in zip(ends, tokens.lengths, strict=True)
    ]
