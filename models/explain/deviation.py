"""Deviation of a user from the population: linear functions of y − E[y] under the population, with uncertainty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from penchant.models.taste.posterior import UserPosterior

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Linear functions φ·δ of one user's deviation, one for each row of φ.

    Attributes:
        mean: `[n]` posterior mean.
        std: `[n]` posterior standard deviation, moment-matched over archetypes.
        probability: `[n]` P(φ·δ > 0), averaged over archetypes; ½ if φ·δ is 0 with certainty.
    """

    mean: Vector
    std: Vector
    probability: Vector


@dataclass(frozen=True)
class Deviation:
    """δ = y − ȳ: a user's y = [t; z] measured from the mean ȳ of the population's mixture.

    Linear functions of δ do not change if the space of taste is rotated, scaled or shifted: the contribution of ȳ
    belongs to shared taste, in any coordinates.

    Attributes:
        population: `[q]` ȳ.
        weights: `[K]` the user's archetype weights.
        means: `[K, q]` E_c[δ].
        covariances: `[K, q, q]` Cov_c[δ].
        mean: `[q]` E[δ]; exactly 0 for a user at the prior.
        covariance: `[q, q]` Cov δ, moment-matched.
    """

    population: Vector
    weights: Vector
    means: Vector
    covariances: Vector
    mean: Vector
    covariance: Vector

    @classmethod
    def from_posterior(cls, posterior: UserPosterior) -> "Deviation":
        """Return the deviation of a user. Cost: O(K q²), beside that of the posterior's beliefs."""
        prior, beliefs = posterior.population.prior, posterior.beliefs
        population = prior.weights @ prior.means
        centre = beliefs.weights @ beliefs.means
        spread = beliefs.means - centre
        covariance = np.einsum("c,cij->ij", beliefs.weights, beliefs.covariances)
        covariance += np.einsum("c,ci,cj->ij", beliefs.weights, spread, spread)
        return cls(
            population,
            beliefs.weights,
            beliefs.means - population,
            beliefs.covariances,
            centre - population,
            covariance,
        )

    def std(self, directions: Vector) -> Vector:
        """Return the standard deviation of φ·y, `[...]`, for φ `[..., q]`."""
        variance = ((directions @ self.covariance) * directions).sum(axis=-1)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def estimate(self, directions: Vector, variances: Vector | None = None) -> Estimate:
        """Return the posterior of φ·δ.

        Args:
            directions: `[n, q]` φ.
            variances: `[n, q]` variance of φ itself, independent of the user. None if φ is known. The product of two
                uncertain numbers is treated as a Gaussian with its moments, which errs towards more uncertainty.

        Cost: O(n K q²).
        """
        means = self.means @ directions.T
        spread = ((directions @ self.covariances) * directions).sum(axis=2)
        if variances is not None:
            second = self.means**2 + np.diagonal(self.covariances, axis1=1, axis2=2)
            spread = spread + second @ variances.T
        std = np.sqrt(np.maximum(spread, 0.0))
        certain = std == 0
        z = np.where(certain, 0.0, means / np.where(certain, 1.0, std))
        probability = np.where(certain, 0.5 * (1 + np.sign(means)), ndtr(z))
        mean = directions @ self.mean
        variance = self.weights @ (std**2 + (means - self.weights @ means) ** 2)
        return Estimate(mean, np.sqrt(variance), np.asarray(self.weights @ probability))
