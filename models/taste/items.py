"""`Items`: n candidate texts as the user model sees them, and their keys."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Items:
    """n texts, described by a `RewardModel`: u(x) = t + b_x + z·v_x, with residual variances of b_x and v_x.

    Attributes:
        base: `[n]` base utility b, the taste that all users share.
        base_variance: `[n]` variance of b that the text does not explain.
        directions: `[n, k]` v, the position of the text on the directions in which people differ.
        direction_variance: `[n, k]` variance of v that the text does not explain.
        keys: n content keys. Equal keys are the same text, whose residuals cancel in a comparison.
    """

    base: NDArray[np.float64]
    base_variance: NDArray[np.float64]
    directions: NDArray[np.float64]
    direction_variance: NDArray[np.float64]
    keys: tuple[bytes, ...]

    @classmethod
    def from_rows(cls, rows: NDArray[np.float64], keys: tuple[bytes, ...]) -> "Items":
        """Return items that are views of the given `rows`. Nothing is copied."""
        q = rows.shape[1] // 2
        items = cls(rows[:, 0], rows[:, 1], rows[:, 3 : 2 + q], rows[:, 2 + q :], keys)
        items.__dict__.update(rows=rows, features=rows[:, 2 : 2 + q])  # fills the cached properties
        return items

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int | slice | Sequence[int]) -> "Items":
        if isinstance(index, int):
            index = slice(index, index + 1) if index >= 0 else slice(index, index + 1 or None)
        if isinstance(index, slice):
            return self._take(index, self.keys[index])
        rows = list(index)
        return self._take(rows, tuple(self.keys[i] for i in rows))

    def _take(self, rows: slice | list[int], keys: tuple[bytes, ...]) -> "Items":
        return Items(
            self.base[rows],
            self.base_variance[rows],
            self.directions[rows],
            self.direction_variance[rows],
            keys,
        )

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """φ = [1; v], `[n, q]`: the coefficients of the user's y = [t; z]."""
        return np.concatenate([np.ones((len(self), 1)), self.directions], axis=1)

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """Everything but the keys, `[n, 1 + 2q]`: base and its variance, φ, variances of v."""
        columns = (self.base[:, None], self.base_variance[:, None], self.features, self.direction_variance)
        return np.concatenate(columns, axis=1)


def item_key(context: str, text: str) -> bytes:
    """Return the key of a text in its context, as used by the item memory. 16 bytes."""
    return item_keys((context,), (text,))[0]


def item_keys(contexts: Sequence[str], texts: Sequence[str]) -> tuple[bytes, ...]:
    """Return the `item_key` of n texts in their contexts. A context that repeats its predecessor is hashed once."""
    keys, last, context_hash = [], None, hashlib.blake2b(digest_size=16)
    for context, text in zip(contexts, texts, strict=True):
        if context is not last:
            last, context_bytes = context, context.encode("utf-8", "surrogatepass")
            context_hash = hashlib.blake2b(
                len(context_bytes).to_bytes(8, "big") + context_bytes, digest_size=16
            )
        digest = context_hash.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return tuple(keys)
