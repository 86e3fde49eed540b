"""Batches for an encoder: texts of similar length together, padded to a common multiple of 16 tokens.

Rounded lengths are what makes a text's vector independent of its company, bit for bit: kernels work through whole
vector registers, so that sums over 48 and over 64 padded positions add the same numbers in the same order, while sums
over 40 and 41 do not. They also leave few distinct shapes, for backends that prepare something for each.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.tokens import Tokens

MULTIPLE: Final = 16
"""Tokens that a batch's padded length is a multiple of: the float32 numbers in the widest register of any processor."""

_BATCHES_PER_WORKER: Final = (
    2  # a worker that lost its core to another process leaves its second to the others
)
_LEAST_TOKENS: Final = 128  # below, a batch's fixed costs outweigh what a second core gives


@dataclass(frozen=True)
class Batch:
    """Texts of similar length, padded on the right.

    Attributes:
        rows: `[b]` which texts they are.
        ids: `[b, length]` token numbers.
        mask: `[b, length]` 1 where there is a token, 0 where there is padding.
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


def cut(tokens: Tokens, *, workers: int, most_tokens: int, pad: int) -> list[Batch]:
    """Batches that hold every text once, longest first.

    Args:
        tokens: What is to be encoded.
        workers: Batches that are computed at the same time; each worker gets at least two where there is enough.
        most_tokens: In a padded batch (a longer text is a batch of its own): bounds the memory of a forward pass.
        pad: Number of the padding token.
    """
    padded = -(-tokens.lengths // MULTIPLE) * MULTIPLE
    budget = most_tokens
    if workers > 1:
        share = -(-int(padded.sum()) // (workers * _BATCHES_PER_WORKER))
        budget = min(max(share, _LEAST_TOKENS), most_tokens)
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
    mask = (np.arange(length) < tokens.lengths[rows, None]).astype(np.int64)
    return Batch(rows, ids, mask)
