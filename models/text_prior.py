"""`TextPrior`: what the text alone says of an item's coordinates c = [b; v], before anybody judged it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CLIP: Final = 4.0
"""Standardised features are clipped to ±4: a text unlike any that was fitted is extrapolated that far and no further."""


@dataclass(frozen=True)
class Standardiser:
    """x = [(vector − centre) / scale clipped ; 1], with blocks weighted against each other.

    Attributes:
        centre: `[dim]`.
        scale: `[dim]`, divides; infinite for a feature that never varied.
    """

    centre: Vector
    scale: Vector

    @classmethod
    def of(cls, vectors: NDArray[np.float16]) -> "Standardiser":
        """Statistics of the texts a model is fitted on, `[n, dim]`; a feature with too little variation is dropped."""
        wide = vectors.astype(np.float64)
        deviation = wide.std(axis=0)
        common = (wide != np.median(wide, axis=0)).mean(axis=0) > 5e-3
        return cls(wide.mean(axis=0), np.where(common & (deviation > 1e-6), deviation, np.inf))

    def __call__(self, vectors: NDArray[np.float16]) -> Vector:
        """`[n, dim]` raw to `[n, dim + 1]` standardised, the constant last."""
        wide = np.clip((vectors.astype(np.float64) - self.centre) / self.scale, -CLIP, CLIP)
        return np.concatenate([wide, np.ones((len(wide), 1))], axis=1)


class TextPrior(Protocol):
    """Maps feature vectors to a Gaussian over item coordinates.

    Implementations: `LinearTextPrior`; a Gaussian process has the same shape.
    """

    @property
    def standardiser(self) -> Standardiser:
        """Raw feature vectors to model features."""
        ...

    def predict(self, vectors: NDArray[np.float16]) -> tuple[Vector, Vector]:
        """Mean and variance, both `[n, m]`, of m coordinates of n texts whose raw feature vectors are `[n, dim]`."""
        ...

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What a bundle stores of it."""
        ...


@dataclass(frozen=True)
class LinearTextPrior:
    """c_j(x) ~ N(w_j·x, x'S_jx + τ_j²): Bayesian linear regression of every coordinate on the standardised features.

    Attributes:
        standardiser: Raw vectors to x `[d]`.
        weights: `[d, m]` posterior means w_j.
        prior_variance: `[d, m]` prior variance of each weight.
        learned: `[m, d, r]` L_j with S_j ≈ diag(prior_variance_j) − L_jL_jᵀ: what the data took away of the prior
            variance, its r largest directions (so that truncation errs towards more uncertainty).
        residual_variance: `[m]` τ_j²: what no text feature tells.
    """

    standardiser: Standardiser
    weights: Vector
    prior_variance: Vector
    learned: NDArray[np.float32]
    residual_variance: Vector

    def predict(self, vectors: NDArray[np.float16]) -> tuple[Vector, Vector]:
        """Mean and variance `[n, m]`. Cost: O(n d m r), dominated by the variance."""
        x = self.standardiser(vectors)
        taken = np.einsum("nd,mdr->nmr", x.astype(np.float32), self.learned, optimize=True)
        variance = (x**2) @ self.prior_variance - (taken.astype(np.float64) ** 2).sum(axis=2)
        return x @ self.weights, np.maximum(variance, 0.0) + self.residual_variance

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Float32 statistics and weights, float16 uncertainty."""
        return {
            "text.centre": self.standardiser.centre.astype(np.float32),
            "text.scale": self.standardiser.scale.astype(np.float32),
            "text.weights": self.weights.astype(np.float32),
            "text.prior_variance": self.prior_variance.astype(np.float32),
            "text.learned": self.learned.astype(np.float16),
            "text.residual_variance": self.residual_variance.astype(np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "LinearTextPrior":
        """Reads what `arrays` gave."""
        wide = {name: array.astype(np.float64) for name, array in arrays.items() if name.startswith("text.")}
        return cls(
            Standardiser(wide["text.centre"], wide["text.scale"]),
            wide["text.weights"],
            wide["text.prior_variance"],
            wide["text.learned"].astype(np.float32),
            wide["text.residual_variance"],
        )
