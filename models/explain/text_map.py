"""The linear map from the features of a text to the space of taste."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.errors import ModelError
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]


class ExplanationError(ModelError, TypeError):
    """The reward model is not linear in the features of a text, so its utilities cannot be split into parts."""


@runtime_checkable
class LinearForm(Protocol):
    """A text prior that is linear in x, with the attributes of `LinearTextPrior`."""

    @property
    def weights(self) -> Vector:
        """`[d, m]`, see `LinearTextPrior`."""
        ...

    @property
    def prior_variance(self) -> Vector:
        """`[d, m]`, see `LinearTextPrior`."""
        ...

    @property
    def learned(self) -> NDArray[np.float32]:
        """`[m, d, r]`, see `LinearTextPrior`."""
        ...


@dataclass(frozen=True)
class TextMap:
    """The linear map from the standardised features of a text to its item coordinates.

    Attributes:
        form: The text prior's weights and their uncertainty.
        weights: `[d, q]` coefficients of x for [b; v; loadings; 0], those of a text whose prompt is unknown.
        gated: `[d, q]` coefficients of x that a gate value multiplies; 0 except for the gate's products, which are last.
        products: Number of the gate's products; 0 without a gate.
        gate_size: Number of gate values g; 0 without a gate.
        first: Column of the first named attribute: x = [embedding | attributes | match | others | 1].
        matched: Columns of x that hold the match of the text and its prompt.
    """

    form: LinearForm
    weights: Vector
    gated: Vector
    products: int
    gate_size: int
    first: int
    matched: slice

    @classmethod
    def from_reward(cls, reward: RewardModel) -> "TextMap":
        """Return the map of a reward model.

        Raises:
            ExplanationError: If the text prior is not linear.
        """
        prior = reward.text_prior
        if not isinstance(prior, LinearForm):
            raise ExplanationError(f"{type(prior).__name__} is not linear in the features of a text")
        standardiser = reward.text_prior.standardiser
        weights = np.concatenate([prior.weights, reward.loadings], axis=1)
        gate = reward.gate
        products = np.repeat(gate.loadings, gate.size, axis=1) if gate else np.zeros((len(weights), 0))
        return cls(
            prior,
            np.concatenate([weights, np.zeros_like(products)], axis=1),
            np.concatenate([np.zeros_like(weights), products], axis=1),
            reward.products,
            gate.size if gate else 0,
            len(standardiser.centre) - len(ATTRIBUTE_NAMES),
            standardiser.matched,
        )

    @property
    def named(self) -> slice:
        """Columns of x that hold the named attributes."""
        return slice(self.first, self.first + len(ATTRIBUTE_NAMES))

    @property
    def described(self) -> slice:
        """Columns of x that have a name: the attributes, and the match, which follows them."""
        return slice(self.first, self.matched.stop)

    def match_worth(self, mean: Vector) -> Vector:
        """Return what the functions of the match are worth to a user, one weight for each.

        Args:
            mean: `[q]` coordinates [t; z] of the user. For the shared worth, the mean of the population.
        """
        weights = self.weights[self.matched]
        return np.asarray(weights[:, 0] + weights[:, 1:] @ mean[1:])

    def read(self, x: Vector, gates: Vector) -> Vector:
        """Return the item coordinates [b; v; loadings; products] `[n, q]` of texts, without the item memory.

        Args:
            x: `[n, d]` standardised features.
            gates: `[n, g]` gate values of the prompts, from `RewardModel.compute_gates`.
        """
        return x @ self.weights + (x @ self.gated) * self._spread(gates)

    @staticmethod
    def keep(x: Vector, columns: slice) -> Vector:
        """Return the features `[n, d]` with all but some columns set to 0."""
        kept = np.zeros_like(x)
        kept[:, columns] = x[:, columns]
        return kept

    def read_named(self, x: Vector, gates: Vector) -> Vector:
        """Return the contribution of each named attribute to the coordinates, `[n, attributes, q]`, given x `[n, d]`."""
        weights = self.weights[self.named] + self.gated[self.named] * self._spread(gates)[:, None, :]
        return np.asarray(x[:, self.named, None] * weights)

    def split_gated(self) -> list[Vector]:
        """Return the coefficients `[d, q]` that each of the g gate values multiplies."""
        size = self.gate_size
        first = self.gated.shape[1] - self.products
        parts = [np.zeros_like(self.gated) for _ in range(size)]
        for number, part in enumerate(parts):
            part[:, first + number :: size] = self.gated[:, first + number :: size]
        return parts

    def _spread(self, gates: Vector) -> Vector:
        """Return the gate value that multiplies each coordinate, `[n, q]`; 0 for all but the products."""
        factors = np.zeros((len(gates), self.weights.shape[1]))
        if self.products:
            factors[:, -self.products :] = np.tile(gates, (1, self.products // self.gate_size))
        return factors

    def directions(self, functionals: Vector) -> tuple[Vector, Vector]:
        """Return linear functionals h·x of a text's features as directions in the space of taste.

        Args:
            functionals: `[n, d]` h.

        Returns:
            φ = [0; Wᵀh] `[n, q]`, and the variance of each coordinate due to the uncertainty of W, `[n, q]`. Loadings
            are declared and have no variance.
        """
        directions, variances = self.coordinates(functionals)
        directions[:, 0], variances[:, 0] = 0.0, 0.0  # b is shared by all users
        return directions, variances

    def coordinates(self, functionals: Vector) -> tuple[Vector, Vector]:
        """Return means and variances `[n, q]` of the item coordinates [b; v; loadings] of linear functionals h·x."""
        means = functionals @ self.weights
        variances = np.zeros_like(means)
        m = self.form.weights.shape[1]
        reduction = np.einsum("nd,mdr->nmr", functionals, self.form.learned, optimize=True)
        remaining = functionals**2 @ self.form.prior_variance - (reduction**2).sum(axis=2)
        variances[:, :m] = np.maximum(remaining, 0.0)
        return means, variances
