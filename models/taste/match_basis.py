"""`MatchBasis`: how the match of a prompt and a text enters the standardised features."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class MatchBasis:
    """Piecewise-linear functions of the match features, each of one column.

    Function j of raw match features is the length of segment [low_j, high_j] below the feature, minus the same at the
    anchor. Its weight is thus the slope of utility along the segment. It is 0 at the anchor, which is the median over
    answers to their own prompt. An unknown feature also counts as 0: it is neutral.

    Attributes:
        column: `[w]` column of the raw match features.
        low: `[w]` lower end of the segment.
        high: `[w]` upper end of the segment.
        anchor: `[w]` value of the feature at which the function is 0.
        kind: `[w]` kind of prompt to which the function applies: the value of the column `kind_column`; −1 for all.
        kind_column: Column of the raw match features that holds the kind of prompt.
        width: Number of raw match features.
    """

    column: NDArray[np.int64]
    low: Vector
    high: Vector
    anchor: Vector
    kind: NDArray[np.int64]
    kind_column: int
    width: int

    def __len__(self) -> int:
        return len(self.column)

    @property
    def bounds(self) -> Vector:
        """`[w]` largest absolute value of each function."""
        return np.maximum(self._at_anchor - self.low, self.high - self._at_anchor)

    @cached_property
    def _at_anchor(self) -> Vector:
        """`[w]` anchor within the segment."""
        return np.clip(self.anchor, self.low, self.high)

    def __call__(self, raw: NDArray[np.float16]) -> Vector:
        """Return the functions `[n, w]` of raw match features `[n, width]`, in which NaN means unknown."""
        values = raw[:, self.column].astype(np.float64)
        np.clip(values, self.low, self.high, out=values)  # NaN stays NaN
        values -= self._at_anchor
        applies = (self.kind < 0) | (raw[:, self.kind_column, None] == self.kind)
        applies &= ~np.isnan(values)
        return np.where(applies, values, 0.0)

    def extend(self, column: int, low: float, high: float, anchor: float) -> "MatchBasis":
        """Return this basis with one more function, of a column for all kinds of prompts, at the end.

        Raises:
            ValueError: If the raw match features lack the column.
        """
        if not 0 <= column < self.width:
            raise ValueError(f"there are {self.width} match features, and no column {column}")
        return MatchBasis(
            np.append(self.column, column),
            np.append(self.low, low),
            np.append(self.high, high),
            np.append(self.anchor, anchor),
            np.append(self.kind, -1),
            self.kind_column,
            self.width,
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that a bundle stores."""
        numbers = {f"match.{f.name}": getattr(self, f.name) for f in fields(self)[:5]}
        stored = {
            name: array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
            for name, array in numbers.items()
        }
        return {**stored, "match.layout": np.array([self.kind_column, self.width])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "MatchBasis | None":
        """Return the basis that `arrays` stored. None for a bundle that does not read prompts."""
        if "match.layout" not in arrays:
            return None
        kind_column, width = map(int, arrays["match.layout"])
        column, low, high, anchor, kind = (arrays[f"match.{f.name}"] for f in fields(cls)[:5])
        return cls(
            column.astype(np.int64),
            low.astype(np.float64),
            high.astype(np.float64),
            anchor.astype(np.float64),
            kind.astype(np.int64),
            kind_column,
            width,
        )
