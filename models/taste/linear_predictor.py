"""The linear predictor ψ = base + direction·y + e of a pair, vote or rating, and its distribution for a user."""

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

from penchant.models.taste.items import Items
from penchant.models.taste.logistic import Mixture
from penchant.models.taste.population import Beliefs, reweight

Vector = NDArray[np.float64]


class LinearPredictor:
    """The part of ψ that does not depend on the user: of a pair (winner minus loser), a vote or a rating.

    Attributes:
        direction: `[q]` φ.
        base: Difference of base utilities for a pair, signed base utility for a vote.
        base_variance: τ_b² of the texts.
        direction_variance: `[k]` τ_d² of the texts.
    """

    __slots__ = ("base", "base_variance", "direction", "direction_variance")

    def __init__(self, item: Items, against: Items | None = None, sign: float = 1.0) -> None:
        direction = np.empty(1 + item.directions.shape[1])
        if against is None:
            direction[0], direction[1:] = sign, sign * item.directions[0]
            self.base, self.base_variance = sign * item.base.item(), item.base_variance.item()
            self.direction_variance = item.direction_variance[0]
        elif item.keys[0] == against.keys[0]:
            # A text compared with itself: the residuals cancel, and the judgement carries no information.
            direction[:] = 0.0
            self.base, self.base_variance, self.direction_variance = 0.0, 0.0, direction[1:]
        else:
            direction[0] = 0.0
            np.subtract(item.directions[0], against.directions[0], out=direction[1:])
            self.base = item.base.item() - against.base.item()
            self.base_variance = item.base_variance.item() + against.base_variance.item()
            self.direction_variance = item.direction_variance[0] + against.direction_variance[0]
        self.direction = direction


class ProjectedBeliefs:
    """Distribution of a linear predictor, for the user and for a new user.

    Attributes:
        residual: Variance of e for the user, τ_b² + Σ_d τ_d² E[z_d²].
        user: Mixture of ψ for the user, e included.
        prior: Mixture of ψ for a new user, e included.
        product: `[K + K₀, q + 1]` covariance of φ·y with y under each archetype, followed by the mean of φ·y.
        variances: Variance of φ·y under each archetype, K + K₀ numbers.
    """

    __slots__ = ("prior", "product", "residual", "user", "variances")

    def __init__(self, predictor: LinearPredictor, beliefs: "StackedBeliefs") -> None:
        direction, base = predictor.direction, predictor.base
        self.product = product = beliefs.rows.dot(direction).reshape(-1, len(direction) + 1)
        self.variances = variances = product[:, :-1].dot(direction).tolist()
        residual, prior_residual = beliefs.second_moments.dot(predictor.direction_variance).tolist()
        self.residual = residual = residual + predictor.base_variance
        prior_residual += predictor.base_variance
        means = product[:, -1].tolist()
        k = len(beliefs.weights)
        self.user: Mixture = [
            (w, base + means[c], residual + variances[c]) for c, w in enumerate(beliefs.weights)
        ]
        self.prior: Mixture = [
            (w, base + means[c], prior_residual + variances[c])
            for c, w in enumerate(beliefs.prior_weights, k)
        ]


class StackedBeliefs:
    """Beliefs about a user stacked on the prior of a new user, so that one product with a direction projects both.

    Immutable.

    Attributes:
        rows: `[(K + K₀)(q + 1), q]` covariance of each archetype followed by its mean: K of the user, K₀ of the prior.
        second_moments: `[2, q − 1]` E[z²] for the user and for the prior.
        weights: K archetype weights of the user.
        prior_weights: K₀ archetype weights of the prior.
    """

    def __init__(
        self, rows: Vector, second_moments: Vector, weights: list[float], prior_weights: list[float]
    ) -> None:
        self.rows, self.second_moments = rows, second_moments
        self.weights, self.prior_weights = weights, prior_weights

    @classmethod
    def stack(cls, user: Beliefs, prior: Beliefs) -> "StackedBeliefs":
        """Stack beliefs about a user on the prior of a new user."""
        both = (user, prior)
        rows = [np.concatenate([b.covariances, b.means[:, None]], axis=1) for b in both]
        stacked = cls(
            np.concatenate(rows).reshape(-1, user.means.shape[1]),
            np.stack([b.expected_squares[1:] for b in both]),
            user.weights.tolist(),
            prior.weights.tolist(),
        )
        stacked.__dict__.update(user=user, prior=prior)  # fills the cached properties
        return stacked

    @cached_property
    def user(self) -> Beliefs:
        """Beliefs about the user."""
        return self._unstack(self.weights, 0)

    @cached_property
    def prior(self) -> Beliefs:
        """Prior of a new user."""
        return self._unstack(self.prior_weights, len(self.weights))

    def _unstack(self, weights: list[float], first: int) -> Beliefs:
        q = self.rows.shape[1]
        stack = self.rows.reshape(-1, q + 1, q)[first : first + len(weights)]
        return Beliefs(np.array(weights), stack[:, -1], stack[:, :-1])

    def update(self, projected: ProjectedBeliefs, precision: float, linear: float) -> "StackedBeliefs":
        """Return the beliefs after a site exp(−½ ω(φ·y)² + lφ·y) on the user, without a matrix inversion.

        Sherman–Morrison: with a_c, s_c the mean and variance of φ·y, V_c' = V_c − ωV_cφφᵀV_c/(1 + ωs_c),
        m_c' = m_c + (l − ωa_c)V_cφ/(1 + ωs_c), and w_c is multiplied by ∫ N(u; a_c, s_c) times the site.

        Args:
            projected: These beliefs projected on φ.
            precision: ω, at least 0.
            linear: l.

        Cost: O(K q²). There are few archetypes: BLAS on the vectors of each is faster than numpy on stacks of matrices.
        """
        q, k = self.rows.shape[1], len(self.weights)
        rows, second_moments, evidence = self.rows.copy(), self.second_moments.copy(), []
        stack = rows.reshape(-1, q + 1, q)
        for c in range(k):
            product, variance = projected.product[c], projected.variances[c]
            mean, denominator = product.item(q), 1 + precision * variance
            step = product * (-precision / denominator)
            step[q] = (linear - precision * mean) / denominator
            dger(1.0, product[:q], step, a=stack[c].T, overwrite_a=True)  # in place: stack[c] + step·productᵀ
            if k > 1:
                exponent = (linear * linear * variance + mean * (2 * linear - precision * mean)) / denominator
                evidence.append(0.5 * (exponent - math.log(denominator)))
        if k == 1:
            mean_position, of_user = rows[q, 1:], second_moments[0]
            np.multiply(mean_position, mean_position, out=of_user)
            of_user += rows[:q].diagonal()[1:]
            return StackedBeliefs(rows, second_moments, self.weights, self.prior_weights)
        weights = reweight(np.array(self.weights), np.array(evidence))
        means = stack[:k, q, 1:]
        second_moments[0] = weights.dot(means * means + stack[:k, :q].diagonal(0, 1, 2)[:, 1:])
        return StackedBeliefs(rows, second_moments, weights.tolist(), self.prior_weights)
