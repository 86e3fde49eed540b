"""`Items`: n candidate texts as the user model sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Items:
    """n texts, described by a `RewardModel`: u(x) = t + b_x + z·v_x, each part with its residual variance.

    Attributes:
        base: `[n]` base utility b: shared taste.
        base_variance: `[n]` variance of b that the text does not explain.
        directions: `[n, k]` v: where the text stands on what people differ in.
        direction_variance: `[n, k]` variance of v that the text does not explain.
        keys: n content keys: equal keys are the same text, whose residuals cancel in a comparison.
    """

    base: NDArray[np.float64]
    base_variance: NDArray[np.float64]
    directions: NDArray[np.float64]
    direction_variance: NDArray[np.float64]
    keys: tuple[bytes, ...]

    @classmethod
    def from_rows(cls, rows: NDArray[np.float64], keys: tuple[bytes, ...]) -> "Items":
        """Items of the given `rows`, into which they look: nothing is copied."""
        q = rows.shape[1] // 2
        items = cls(rows[:, 0], rows[:, 1], rows[:, 3 : 2 + q], rows[:, 2 + q :], keys)
        items.__dict__.update(rows=rows, features=rows[:, 2 : 2 + q])  # what the cached properties would make
        return items

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int | Sequence[int]) -> "Items":
        if isinstance(index, int):
            row = slice(index, index + 1) if index >= 0 else slice(index, index + 1 or None)
            return self._take(row, self.keys[row])
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
        """φ = [1; v], `[n, q]`: what multiplies the user's y = [t; z]."""
        return np.concatenate([np.ones((len(self), 1)), self.directions], axis=1)

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """All but the keys, `[n, 1 + 2q]`: base and its variance, φ, variances of v."""
        columns = (self.base[:, None], self.base_variance[:, None], self.features, self.direction_variance)
        return np.concatenate(columns, axis=1)
