"""`UserPosterior`: what is known of one user, an immutable value of under 1 KB."""

import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.items import Items
from penchant.models.likelihood import Observation, site
from penchant.models.population import Beliefs, Population

_HEADER: Final = struct.Struct("<4sHHI")
_MAGIC: Final = b"pup1"


class PosteriorError(ValueError):
    """Stored bytes are not a posterior of this population."""


@dataclass(frozen=True)
class Utility:
    """Utility of n items for one user.

    Attributes:
        mean: `[n]` mean over archetypes, user position and residuals.
        std: `[n]` standard deviation of the same.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


@dataclass(frozen=True)
class UserPosterior:
    """A user's posterior: population prior × Σ judgement sites.

    The evidence is held without the prior, in float32: the same numbers that are stored, so that a posterior that was
    saved and loaded is the posterior that was saved.

    Attributes:
        population: The prior over users.
        precision: `[q, q]` float32 Λ, the sum of the sites' precisions.
        linear: `[q]` float32 η, the sum of their linear terms.
        judgements: How many were learned.
    """

    population: Population = field(repr=False)
    precision: NDArray[np.float32] = field(repr=False)
    linear: NDArray[np.float32] = field(repr=False)
    judgements: int = 0

    @classmethod
    def at_prior(cls, population: Population) -> "UserPosterior":
        """A user nobody has heard from: the population."""
        q = population.q
        return cls(population, np.zeros((q, q), np.float32), np.zeros(q, np.float32))

    @cached_property
    def beliefs(self) -> Beliefs:
        """Mixture of Gaussians over y = [t; z], in float64. Cost: O(K q³) once."""
        if self.judgements == 0:
            return self.population.prior
        return self.population.update(self.precision.astype(np.float64), self.linear.astype(np.float64))

    @property
    def archetype_weights(self) -> NDArray[np.float64]:
        """`[K]` how much this user looks like each archetype."""
        return self.beliefs.weights

    def learn(self, observation: Observation) -> "UserPosterior":
        """The posterior after one more judgement. Cost: one site, O(K q²), and the beliefs it is taken under."""
        found = site(observation, self.beliefs)
        precision = self.precision + found.precision
        linear = self.linear + found.linear
        return UserPosterior(
            self.population, precision.astype(np.float32), linear.astype(np.float32), self.judgements + 1
        )

    def utility(self, items: Items) -> Utility:
        """Mean and standard deviation of u = b + φ·y + residual, per item. Cost: O(n K q²)."""
        means, variances = self.utility_by_archetype(items)
        weights = self.beliefs.weights
        mean = weights @ means
        variance = weights @ (variances + (means - mean) ** 2)
        return Utility(mean, np.sqrt(variance))

    def utility_by_archetype(self, items: Items) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance `[K, n]` of every item's utility under each archetype, residuals included."""
        beliefs, features = self.beliefs, items.features
        means = items.base + beliefs.means @ features.T
        user = ((features @ beliefs.covariances) * features).sum(axis=2)
        return means, user + self.residual_by_archetype(items)

    def residual_by_archetype(self, items: Items) -> NDArray[np.float64]:
        """τ_b² + Σ_d τ_d² E_c[z_d²], `[K, n]`: what the items' residuals add to the variance of their utility."""
        second = self.beliefs.second_moments[:, 1:]
        residual: NDArray[np.float64] = items.base_variance + second @ items.direction_variance.T
        return residual

    def to_bytes(self) -> bytes:
        """Header, η and the upper triangle of Λ in float32: 12 + 4(q + q(q+1)/2) bytes, 692 at q = 17."""
        q = self.population.q
        upper = self.precision[np.triu_indices(q)]
        header = _HEADER.pack(_MAGIC, q, len(self.population.weights), self.judgements)
        return header + self.linear.tobytes() + upper.tobytes()

    @classmethod
    def from_bytes(cls, blob: bytes, population: Population) -> "UserPosterior":
        """Reads what `to_bytes` wrote.

        Raises:
            PosteriorError: The bytes are damaged, or belong to a population of another size.
        """
        q = population.q
        size = q + q * (q + 1) // 2
        if len(blob) != _HEADER.size + 4 * size:
            raise PosteriorError(
                f"{len(blob)} bytes, a posterior of {q} coordinates has {_HEADER.size + 4 * size}"
            )
        magic, stored_q, archetypes, judgements = _HEADER.unpack_from(blob)
        if (magic, stored_q, archetypes) != (_MAGIC, q, len(population.weights)):
            raise PosteriorError(f"header {(magic, stored_q, archetypes)} does not fit this population")
        numbers = np.frombuffer(blob, "<f4", offset=_HEADER.size)
        if not np.isfinite(numbers).all():
            raise PosteriorError("a number is not finite")
        precision = np.zeros((q, q), np.float32)
        precision[np.triu_indices(q)] = numbers[q:]
        precision = np.triu(precision) + np.triu(precision, 1).T
        return cls(population, precision, numbers[:q].astype(np.float32), judgements)
