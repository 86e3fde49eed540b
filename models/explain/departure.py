"""How a user departs from the population: linear readings of y − E[y of the population], with their certainty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from penchant.models.taste.posterior import UserPosterior

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Readings φ·δ of one user, one a row of φ.

    Attributes:
        mean: `[n]` posterior mean.
        std: `[n]` posterior standard deviation, moment-matched over archetypes.
        probability: `[n]` P(reading > 0), by archetype; ½ for a reading that is 0 with certainty.
    """

    mean: Vector
    std: Vector
    probability: Vector


@dataclass(frozen=True)
class Departure:
    """δ = y − ȳ: a user's y = [t; z] measured from the mean ȳ of the population's mixture.

    Measured so, a reading stays the same when the space of taste is rotated, scaled or shifted: what ȳ says belongs to
    shared taste, whatever coordinates a fit happened to choose.

    Attributes:
        population: `[q]` ȳ.
        weights: `[K]` the user's archetype weights.
        means: `[K, q]` E_c[δ].
        covariances: `[K, q, q]`.
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
    def of(cls, posterior: UserPosterior) -> "Departure":
        """Cost: O(K q²) beyond the posterior's beliefs."""
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

    def spread(self, directions: Vector) -> Vector:
        """Standard deviation of φ·y for φ `[..., q]`: `[...]`."""
        variance = ((directions @ self.covariance) * directions).sum(axis=-1)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def along(self, directions: Vector, variances: Vector | None = None) -> Estimate:
        """Readings φ·δ.

        Args:
            directions: `[n, q]` φ.
            variances: `[n, q]` what is not known of φ itself, independent of the user. None: φ is known. A product of
                two uncertain numbers is then taken as Gaussian with the right moments, which errs towards doubt.

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
        chance = np.where(certain, 0.5 * (1 + np.sign(means)), ndtr(z))
        mean = directions @ self.mean
        variance = self.weights @ (std**2 + (means - self.weights @ means) ** 2)
        return Estimate(mean, np.sqrt(variance), np.asarray(self.weights @ chance))
