"""A user beside a stranger: beliefs about both, laid out so that one product with a direction serves both."""

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

from penchant.models.taste.contrast import Contrast, Parts
from penchant.models.taste.population import Beliefs, reweighted

Vector = NDArray[np.float64]


class Projection:
    """ψ of a contrast, for the user and for the stranger.

    Attributes:
        residual: Variance of e for the user, τ_b² + Σ_d τ_d² E[z_d²].
        parts: Of ψ for the user, e included.
        stranger: Likewise for the stranger.
        product: `[K + K₀, q + 1]` covariance of φ·y with y under each archetype, behind it the mean of φ·y.
        variances: Of φ·y, K + K₀.
    """

    __slots__ = ("parts", "product", "residual", "stranger", "variances")

    def __init__(self, contrast: Contrast, portrait: "Portrait") -> None:
        direction, base = contrast.direction, contrast.base
        self.product = product = portrait.rows.dot(direction).reshape(-1, len(direction) + 1)
        self.variances = variances = product[:, :-1].dot(direction).tolist()
        residual, other = portrait.squares.dot(contrast.direction_variance).tolist()
        self.residual = residual = residual + contrast.base_variance
        other += contrast.base_variance
        means = product[:, -1].tolist()
        k = len(portrait.weights)
        self.parts: Parts = [
            (w, base + means[c], residual + variances[c]) for c, w in enumerate(portrait.weights)
        ]
        self.stranger: Parts = [
            (w, base + means[c], other + variances[c]) for c, w in enumerate(portrait.stranger_weights, k)
        ]


class Portrait:
    """Immutable.

    Attributes:
        rows: `[(K + K₀)(q + 1), q]` covariances, below each its mean: K archetypes of the user, K₀ of the stranger.
        squares: `[2, q − 1]` E[z²] of the user and of the stranger.
        weights: K archetype weights of the user.
        stranger_weights: K₀ of the stranger.
    """

    def __init__(
        self, rows: Vector, squares: Vector, weights: list[float], stranger_weights: list[float]
    ) -> None:
        self.rows, self.squares = rows, squares
        self.weights, self.stranger_weights = weights, stranger_weights

    @classmethod
    def of(cls, beliefs: Beliefs, stranger: Beliefs) -> "Portrait":
        """A user beside a stranger."""
        both = (beliefs, stranger)
        rows = [np.concatenate([b.covariances, b.means[:, None]], axis=1) for b in both]
        portrait = cls(
            np.concatenate(rows).reshape(-1, beliefs.means.shape[1]),
            np.stack([b.expected_squares[1:] for b in both]),
            beliefs.weights.tolist(),
            stranger.weights.tolist(),
        )
        portrait.__dict__.update(beliefs=beliefs, stranger=stranger)  # what the properties would make of it
        return portrait

    @cached_property
    def beliefs(self) -> Beliefs:
        """About the user."""
        return self._read(self.weights, 0)

    @cached_property
    def stranger(self) -> Beliefs:
        """About the stranger."""
        return self._read(self.stranger_weights, len(self.weights))

    def _read(self, weights: list[float], first: int) -> Beliefs:
        q = self.rows.shape[1]
        stack = self.rows.reshape(-1, q + 1, q)[first : first + len(weights)]
        return Beliefs(np.array(weights), stack[:, -1], stack[:, :-1])

    def after(self, projection: Projection, precision: float, push: float) -> "Portrait":
        """With a site exp(−½ ω(φ·y)² + lφ·y) on the user, without inverting anew (Sherman–Morrison).

        With a_c, s_c mean and variance of φ·y: V_c' = V_c − ωV_cφφᵀV_c/(1 + ωs_c),
        m_c' = m_c + (l − ωa_c)V_cφ/(1 + ωs_c), and w_c is multiplied by ∫ N(u; a_c, s_c) times the site.

        Args:
            projection: Of φ on this portrait.
            precision: ω, at least 0.
            push: l.

        Cost: O(K q²). Archetypes are few: for each of them BLAS on vectors is faster than numpy on stacks of matrices.
        """
        q, k = self.rows.shape[1], len(self.weights)
        rows, squares, evidence = self.rows.copy(), self.squares.copy(), []
        stack = rows.reshape(-1, q + 1, q)
        for c in range(k):
            carried, variance = projection.product[c], projection.variances[c]
            mean, damped = carried.item(q), 1 + precision * variance
            step = carried * (-precision / damped)
            step[q] = (push - precision * mean) / damped
            dger(1.0, carried[:q], step, a=stack[c].T, overwrite_a=True)  # in place: stack[c] + step·carriedᵀ
            if k > 1:
                exponent = (push * push * variance + mean * (2 * push - precision * mean)) / damped
                evidence.append(0.5 * (exponent - math.log(damped)))
        if k == 1:
            centre, of_user = rows[q, 1:], squares[0]
            np.multiply(centre, centre, out=of_user)
            of_user += rows[:q].diagonal()[1:]
            return Portrait(rows, squares, self.weights, self.stranger_weights)
        weights = reweighted(np.array(self.weights), np.array(evidence))
        means = stack[:k, q, 1:]
        squares[0] = weights.dot(means * means + stack[:k, :q].diagonal(0, 1, 2)[:, 1:])
        return Portrait(rows, squares, weights.tolist(), self.stranger_weights)
