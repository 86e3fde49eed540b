"""The population, a mixture of Gaussians over users (archetypes), and the posterior mixture given a user's evidence.

A user is y = [t; z], q numbers: the threshold t, above which a text is good enough, and the position z in the space of
taste. y ~ Σ_c π_c N(μ_c, P_c⁻¹). A user's judgements add up to one Gaussian site in natural parameters, precision Λ and
linear term η, shared by all archetypes. Prior × site has a closed form, which this module computes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Beliefs:
    """A mixture of Gaussians over one user's y.

    Attributes:
        weights: `[K]` archetype weights, sum 1.
        means: `[K, q]`.
        covariances: `[K, q, q]`.
    """

    weights: Vector
    means: Vector
    covariances: Vector

    @property
    def second_moments(self) -> Vector:
        """E_c[y²] by archetype and coordinate, `[K, q]`."""
        means = self.means
        return means * means + self.covariances.diagonal(0, 1, 2)

    @cached_property
    def expected_squares(self) -> Vector:
        """E[y²] over the whole mixture, `[q]`."""
        squares: Vector = self.weights @ self.second_moments
        return squares

    @cached_property
    def mean(self) -> Vector:
        """E[y] over the whole mixture, `[q]`."""
        mean: Vector = self.weights @ self.means
        return mean

    @cached_property
    def covariance(self) -> Vector:
        """Cov[y] over the whole mixture, `[q, q]`."""
        deviations = self.means - self.mean
        within: Vector = np.tensordot(self.weights, self.covariances, axes=1)
        return within + (self.weights * deviations.T) @ deviations

    def update(self, directions: Vector, precision: Vector, linear: Vector) -> "Beliefs":
        """Return the beliefs after a site on u = Fy, exp(−½ uᵀCu + pᵀu), without inverting a `[q, q]` matrix.

        Woodbury: with a_c = F m_c, S_c = F V_c Fᵀ and B_c = (I + C S_c)⁻¹, V_c' = V_c − V_cFᵀB_cCFV_c,
        m_c' = m_c + V_cFᵀB_c(p − Ca_c), and w_c is multiplied by ∫ N(u; a_c, S_c) times the site.

        Args:
            directions: `[r, q]` F.
            precision: `[r, r]` C, positive semidefinite.
            linear: `[r]` p.

        Cost: O(K (q² r + r³)).
        """
        cross = directions @ self.covariances  # [K, r, q]
        covariances_u, means_u = cross @ directions.T, self.means @ directions.T
        system = np.eye(len(linear)) + precision @ covariances_u
        inverse = np.linalg.inv(system)
        gradient = linear - means_u @ precision
        shift = (gradient[:, None, :] @ inverse.transpose(0, 2, 1))[:, 0]
        means = self.means + (shift[:, None, :] @ cross)[:, 0]
        removed = cross.transpose(0, 2, 1) @ (inverse @ precision) @ cross
        covariances = self.covariances - 0.5 * (removed + removed.transpose(0, 2, 1))
        gained = (shift[:, None, :] @ covariances_u @ gradient[:, :, None])[:, 0, 0]
        quadratic = 2 * means_u @ linear - ((means_u @ precision) * means_u).sum(axis=1)
        evidence = 0.5 * (gained + quadratic - np.linalg.slogdet(system)[1])
        return Beliefs(reweight(self.weights, evidence), means, covariances)


def reweight(weights: Vector, log_evidence: Vector) -> Vector:
    """Return archetype weights `[K]` multiplied by their evidence and normalised."""
    # Weights that underflow to 0 are raised, so that later evidence can revive an archetype.
    logs = np.log(np.maximum(weights, 1e-300)) + log_evidence
    unnormalised = np.exp(logs - logs.max())
    normalised: Vector = unnormalised / unnormalised.sum()
    return normalised


@dataclass(frozen=True)
class Population:
    """The mixture prior over users.

    Attributes:
        weights: `[K]`, positive, sum 1.
        means: `[K, q]`.
        precisions: `[K, q, q]`, symmetric positive definite.
    """

    weights: Vector
    means: Vector
    precisions: Vector

    @cached_property
    def q(self) -> int:
        """Number of coordinates of a user: the threshold and the directions of taste."""
        return int(self.means.shape[1])

    @cached_property
    def prior(self) -> Beliefs:
        """Beliefs about a user without judgements."""
        covariances = np.linalg.inv(self.precisions).astype(np.float64, copy=False)
        return Beliefs(self.weights, self.means, covariances)

    @cached_property
    def _linear(self) -> Vector:
        linear: Vector = np.einsum("cij,cj->ci", self.precisions, self.means)
        return linear

    @cached_property
    def _log_prior_evidence(self) -> Vector:
        """Log π_c + ½ log|P_c| − ½ μ_cᵀP_cμ_c, `[K]`: the part of the evidence that does not depend on judgements."""
        quadratic = np.einsum("ci,ci->c", self.means, self._linear)
        evidence: Vector = np.log(self.weights) + 0.5 * (np.linalg.slogdet(self.precisions)[1] - quadratic)
        return evidence

    def update(self, precision: Vector, linear: Vector) -> Beliefs:
        """Return the beliefs after a site exp(−½ yᵀΛy + ηᵀy).

        log w_c = log π_c + ½[log|P_c| − log|P_c+Λ| + (P_cμ_c+η)ᵀ(P_c+Λ)⁻¹(P_cμ_c+η) − μ_cᵀP_cμ_c] + const
        (the Gaussian integral of prior times site).

        Args:
            precision: `[q, q]` Λ.
            linear: `[q]` η.

        Cost: O(K q³); 17 coordinates and one archetype take about 40 µs.
        """
        covariances = np.linalg.inv(self.precisions + precision).astype(np.float64, copy=False)
        totals = self._linear + linear
        means = (covariances @ totals[:, :, None])[:, :, 0]
        if len(self.weights) == 1:
            return Beliefs(self.weights, means, covariances)
        log_weights = self._log_prior_evidence + 0.5 * (
            np.linalg.slogdet(covariances)[1] + np.einsum("ci,ci->c", totals, means)
        )
        weights = np.exp(log_weights - log_weights.max())
        return Beliefs(weights / weights.sum(), means, covariances)
