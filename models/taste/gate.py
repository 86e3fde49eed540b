"""`Gate`: taste that depends on the kind of prompt.

A gate turns the embedding of a prompt into a few numbers that tell kinds of prompt apart. The products of these numbers
with a few directions of taste are further coordinates of an item. A user's weight on such a product is how much more the
user likes the direction in one kind of prompt than in another. Utility stays linear in the user, so that the user model
has the same closed form as without a gate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

LARGEST_GATE: Final = 2.5
"""Gate values are clipped to ±2.5 standard deviations, which limits extrapolation to prompts unlike any fitted one."""


@dataclass(frozen=True)
class Gate:
    """g kinds of prompt, and the c directions of taste whose weight depends on them.

    Attributes:
        centre: `[E]` mean embedding of the fitted prompts.
        projection: `[E, g]` directions of the embedding, scaled so that gate values of the fitted prompts have
            variance 1.
        loadings: `[d, c]` gated directions of the standardised features x.
    """

    centre: Vector
    projection: Vector
    loadings: Vector

    @property
    def prompt_dim(self) -> int:
        """Width E of a prompt's embedding."""
        return len(self.centre)

    @property
    def size(self) -> int:
        """Number of gate values g."""
        return int(self.projection.shape[1])

    @property
    def products(self) -> int:
        """Number of products c·g. Those of one direction are adjacent."""
        return int(self.loadings.shape[1]) * self.size

    def __call__(self, prompts: NDArray[np.float16]) -> Vector:
        """Return the gate values `[n, g]` of prompts.

        Args:
            prompts: `[n, E]` embeddings. One that is zero or not finite belongs to no prompt: its values are exactly 0.
        """
        is_known = np.asarray(np.isfinite(prompts).all(axis=1) & prompts.any(axis=1), np.bool_)
        deviations = np.where(is_known[:, None], prompts.astype(np.float64) - self.centre, 0.0)
        # One product a prompt: the values of a prompt must not depend on the others.
        projected = np.matmul(deviations[:, None, :], self.projection)[:, 0]
        values: Vector = np.clip(projected, -LARGEST_GATE, LARGEST_GATE)
        return values

    def multiply(self, directions: Vector, values: Vector) -> Vector:
        """Return the products `[n, c·g]` of texts' gated directions x·loadings `[n, c]` and gate values `[n, g]`."""
        products = directions[:, :, None] * values[:, None, :]
        return products.reshape(len(directions), self.products)

    def insert_column(self, at: int) -> "Gate":
        """Return the gate for features x with one more column, which no gated direction reads."""
        return replace(self, loadings=np.insert(self.loadings, at, 0.0, axis=0))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that a bundle stores."""
        return {
            "gate.centre": self.centre.astype(np.float32),
            "gate.projection": self.projection.astype(np.float32),
            "gate.loadings": self.loadings.astype(np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Gate | None":
        """Return the gate that `arrays` stored. None for a bundle without a gate."""
        if "gate.projection" not in arrays:
            return None
        centre, projection, loadings = (
            arrays[f"gate.{name}"].astype(np.float64) for name in ("centre", "projection", "loadings")
        )
        return cls(centre, projection, loadings)
