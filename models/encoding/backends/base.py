"""What computes an encoder's forward pass: `Backend`, the probes that it is tried on, and the test that it must pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.batches import Batch, cut
from penchant.models.encoding.tokens import Tokens

MIN_COSINE: Final = {"float32": 0.999999, "bfloat16": 0.9999}
"""Between a backend's vectors and torch's in float32, for every probe."""

MAX_COMPANY: Final = {"float32": 1e-5, "bfloat16": 1e-3}
"""Distance between a probe's vectors when it is encoded alone and among others."""

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
"""Texts of many lengths and scripts."""


class Backend(Protocol):
    """Computes token numbers' pooled unit vectors, several batches at a time.

    Attributes:
        name: `torch` or `openvino`.
        precision: What it multiplies matrices in.
        place: What computes it, for people to read.
        workers: Batches that it computes at the same time.
        most_tokens: That a padded batch may hold.
    """

    name: str
    precision: str
    place: str
    workers: int
    most_tokens: int

    def embed(self, batches: Sequence[Batch]) -> list[NDArray[np.float32]]:
        """Unit vectors `[b, dim]` of each batch, in order."""
        ...


def embed(backend: Backend, tokens: Tokens, pad: int) -> NDArray[np.float32]:
    """Unit vectors `[n, dim]` of n ≥ 1 texts. Cost: one forward pass over all tokens, padded by under 16 a text."""
    batches = cut(tokens, workers=backend.workers, most_tokens=backend.most_tokens, pad=pad)
    parts = backend.embed(batches)
    vectors = np.empty((len(tokens), parts[0].shape[1]), np.float32)
    for batch, part in zip(batches, parts, strict=True):
        vectors[batch.rows] = part
    return vectors


@dataclass(frozen=True)
class Probes:
    """Tokens of the probes, and what torch makes of them in float32.

    Attributes:
        tokens: n texts.
        vectors: `[n, dim]` float32, unit length.
    """

    tokens: Tokens
    vectors: NDArray[np.float32]


def fault(backend: Backend, probes: Probes, pad: int) -> str | None:
    """What is wrong with a backend, or None: it must agree with torch, and give a text one vector in any company."""
    together = embed(backend, probes.tokens, pad)
    if together.shape != probes.vectors.shape or not np.isfinite(together).all():
        return "its vectors are not finite, or not as wide as they should be"
    cosine = float(_cosines(together, probes.vectors).min())
    least = MIN_COSINE[backend.precision]
    if cosine < least:
        return f"cosine {cosine:.7f} to float32 on torch, at least {least} is needed"
    alone = np.concatenate([embed(backend, one, pad) for one in _singly(probes.tokens)])
    distance = float(np.linalg.norm(alone - together, axis=1).max())
    most = MAX_COMPANY[backend.precision]
    if distance > most:
        return (
            f"a text's vector moves by {distance:.2g} with the batch that it is in, at most {most} is allowed"
        )
    return None


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """`[n]`, in float64: in float32 the rounding would be as large as what is allowed."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosines: NDArray[np.float64] = (a64 * b64).sum(1) / norms
    return cosines


def _singly(tokens: Tokens) -> list[Tokens]:
    ends = np.cumsum(tokens.lengths)
    return [
        Tokens.of([tokens.ids[end - length : end].tolist()])
        for end, length in zip(ends, tokens.lengths, strict=True)
    ]
