"""What the features of a text are worth in the space of taste, where the text prior is linear in them."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.errors import ModelError
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]


class ExplanationError(ModelError, TypeError):
    """The reward model is not linear in the features of a text, so that its utilities have no parts."""


@runtime_checkable
class LinearForm(Protocol):
    """A text prior whose coordinates are linear in x, as `LinearTextPrior`: arrays as described there."""

    @property
    def weights(self) -> Vector:
        """`[d, m]`."""
        ...

    @property
    def prior_variance(self) -> Vector:
        """`[d, m]`."""
        ...

    @property
    def learned(self) -> NDArray[np.float32]:
        """`[m, d, r]`."""
        ...


@dataclass(frozen=True)
class TextMap:
    """The linear map from the standardised features of a text to its item coordinates.

    Attributes:
        form: The text prior's weights and their uncertainty.
        weights: `[d, q]` of x on [b; v; loadings].
        first: Column of the first named attribute: x = [embedding | attributes | others | 1].
    """

    form: LinearForm
    weights: Vector
    first: int

    @classmethod
    def of(cls, reward: RewardModel, dim: int) -> "TextMap":
        """The map of a reward model for raw feature vectors of width `dim`.

        Raises:
            ExplanationError: The text prior has no linear form.
        """
        prior = reward.text_prior
        if not isinstance(prior, LinearForm):
            raise ExplanationError(f"{type(prior).__name__} is not linear in the features of a text")
        return cls(
            prior, np.concatenate([prior.weights, reward.loadings], axis=1), dim - len(ATTRIBUTE_NAMES)
        )

    @property
    def named(self) -> slice:
        """Columns of x that hold the named attributes."""
        return slice(self.first, self.first + len(ATTRIBUTE_NAMES))

    def directions(self, functionals: Vector) -> tuple[Vector, Vector]:
        """What linear functionals h·x of a text's features are worth in the space of taste.

        Args:
            functionals: `[n, d]` h.

        Returns:
            φ = [0; Wᵀh] `[n, q]`, and the variance of each coordinate for want of knowing W, `[n, q]`; loadings are
            declared and have none.
        """
        directions, variances = self.coordinates(functionals)
        directions[:, 0], variances[:, 0] = 0.0, 0.0  # b is everybody's
        return directions, variances

    def coordinates(self, functionals: Vector) -> tuple[Vector, Vector]:
        """The same of the item coordinates [b; v; loadings]: means and variances, both `[n, q]`."""
        means = functionals @ self.weights
        variances = np.zeros_like(means)
        m = self.form.weights.shape[1]
        taken = np.einsum("nd,mdr->nmr", functionals, self.form.learned, optimize=True)
        known = functionals**2 @ self.form.prior_variance - (taken**2).sum(axis=2)
        variances[:, :m] = np.maximum(known, 0.0)
        return means, variances
