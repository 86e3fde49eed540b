"""The population: a mixture of Gaussians over users (archetypes) and what a user's evidence makes of it.

A user is y = [t; z], q numbers: the threshold t ("good enough" starts there) and the position z in the space of taste.
y ~ Σ_c π_c N(μ_c, P_c⁻¹). A user's judgements are one Gaussian site in natural parameters, precision Λ and linear
term η, shared by all archetypes; everything here is the closed form of prior × site.
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
        """E_c[y²], `[K, q]`: per archetype and coordinate."""
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
        apart = self.means - self.mean
        within: Vector = np.tensordot(self.weights, self.covariances, axes=1)
        return within + (self.weights * apart.T) @ apart

    def after(self, factors: Vector, core: Vector, push: Vector) -> "Beliefs":
        """Beliefs after a site on u = Fy, exp(−½ uᵀCu + pᵀu), without inverting anew.

        With a_c = F m_c, S_c = F V_c Fᵀ and B_c = (I + C S_c)⁻¹ (Woodbury): V_c' = V_c − V_cFᵀB_cCFV_c,
        m_c' = m_c + V_cFᵀB_c(p − Ca_c), and w_c is multiplied by ∫ N(u; a_c, S_c) times the site.

        Args:
            factors: `[r, q]` F.
            core: `[r, r]` C, positive semidefinite.
            push: `[r]` p.

        Cost: O(K (q² r + r³)).
        """
        carried = factors @ self.covariances  # [K, r, q]
        spread, centres = carried @ factors.T, self.means @ factors.T
        system = np.eye(len(push)) + core @ spread
        inverse = np.linalg.inv(system)
        pull = push - centres @ core
        shift = (pull[:, None, :] @ inverse.transpose(0, 2, 1))[:, 0]
        means = self.means + (shift[:, None, :] @ carried)[:, 0]
        removed = carried.transpose(0, 2, 1) @ (inverse @ core) @ carried
        covariances = self.covariances - 0.5 * (removed + removed.transpose(0, 2, 1))
        gained = (shift[:, None, :] @ spread @ pull[:, :, None])[:, 0, 0]
        quadratic = 2 * centres @ push - ((centres @ core) * centres).sum(axis=1)
        evidence = 0.5 * (gained + quadratic - np.linalg.slogdet(system)[1])
        return Beliefs(reweighted(self.weights, evidence), means, covariances)


def reweighted(weights: Vector, log_evidence: Vector) -> Vector:
    """Archetype weights times their evidence."""
    # An archetype that was ruled out beyond what a number can hold may come back.
    logs = np.log(np.maximum(weights, 1e-300)) + log_evidence
    found = np.exp(logs - logs.max())
    normalised: Vector = found / found.sum()
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

    @property
    def q(self) -> int:
        """Coordinates of a user: the threshold and the directions of taste."""
        return int(self.means.shape[1])

    @cached_property
    def prior(self) -> Beliefs:
        """What is believed of a user without judgements."""
        covariances = np.linalg.inv(self.precisions).astype(np.float64, copy=False)
        return Beliefs(self.weights, self.means, covariances)

    @cached_property
    def _linear(self) -> Vector:
        linear: Vector = np.einsum("cij,cj->ci", self.precisions, self.means)
        return linear

    @cached_property
    def _log_prior_evidence(self) -> Vector:
        """Log π_c + ½ log|P_c| − ½ μ_cᵀP_cμ_c: the part of the evidence that no judgement changes, `[K]`."""
        quadratic = np.einsum("ci,ci->c", self.means, self._linear)
        evidence: Vector = np.log(self.weights) + 0.5 * (np.linalg.slogdet(self.precisions)[1] - quadratic)
        return evidence

    def update(self, precision: Vector, linear: Vector) -> Beliefs:
        """Beliefs after a site exp(−½ yᵀΛy + ηᵀy).

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
