"""Batches for an encoder: windows of similar length together, padded to a common multiple of 16 tokens.

Rounded lengths make the vector of a window independent of its batch, bit for bit. Kernels work on whole vector
registers, so that sums over 48 and over 64 padded positions add the same numbers in the same order, while sums over 40
and 41 do not. They also keep the number of distinct shapes small, which helps backends that prepare something for each
shape.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.tokens import Tokens

MULTIPLE: Final = 16
"""The padded length of a batch is a multiple of this number: the float32 numbers in the widest processor register."""

_BATCHES_PER_WORKER: Final = (
    2  # if a worker loses its core to another process, the other workers take its second batch
)
_MIN_TOKENS: Final = 128  # in smaller batches, fixed costs outweigh the gain of a second core


@dataclass(frozen=True)
class Batch:
    """Windows of similar length, padded on the right.

    Attributes:
        rows: Index of each window in the call, `[b]`.
        ids: Token numbers, `[b, length]`.
        mask: 1 for a token and 0 for padding, `[b, length]`. In the pairs of a cross-encoder, a token of the text is 2.
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


def make_batches(tokens: Tokens, *, workers: int, most_tokens: int, pad: int) -> list[Batch]:
    """Split windows into batches, longest windows first. The windows of a text may be in different batches.

    Args:
        tokens: Tokens of the texts with their windows.
        workers: Number of batches that are computed at the same time. Each worker gets at least two batches if there
            are enough tokens.
        most_tokens: Largest number of tokens in a padded batch, which bounds the memory of a forward pass. A longer
            window gets a batch of its own.
        pad: Number of the padding token.
    """
    padded = -(-tokens.lengths // MULTIPLE) * MULTIPLE
    budget = most_tokens
    if workers > 1:
        share = -(-int(padded.sum()) // (workers * _BATCHES_PER_WORKER))
        budget = min(max(share, _MIN_TOKENS), most_tokens)
    order = np.argsort(-padded, kind="stable")
    starts = np.concatenate([[0], np.cumsum(tokens.lengths)])
    batches, first = [], 0
    while first < len(order):
        length = int(padded[order[first]])
        rows = order[first : first + max(1, budget // length)]
        batches.append(_pad(tokens, starts, rows, length, pad))
        first += len(rows)
    return batches


def _pad(tokens: Tokens, starts: NDArray[np.int64], rows: NDArray[np.int64], length: int, pad: int) -> Batch:
    ids = np.full((len(rows), length), pad, np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: tokens.lengths[row]] = tokens.ids[starts[row] : starts[row + 1]]
    places = np.arange(length)
    mask = (places < tokens.lengths[rows, None]).astype(np.int64)
    if tokens.leading is not None:
        mask[mask.astype(np.bool_) & (places >= tokens.leading[rows, None])] = 2
    return Batch(rows, ids, mask)
