"""`UserPosterior`: the posterior of one user, an immutable value of under 1 KB.

It also detects whether the user has changed, by Page's test (1954). For every judgement the log probability under the
user's own posterior is compared with that under the population's prior. The difference is the log-likelihood ratio of "a
new user" against "the user as learned", in nats: 0 if both predict the same, negative on average while the user does not
change. It is clipped so that no single judgement decides. Its cumulative sum, never below 0, reveals a change when it
exceeds a threshold.

Measured by simulation (eight directions of taste, 100 judgements before the change, 50 users each; `tests/models`
repeats a part of it): without a change and with the right noise there are 0, 0.03 and 0 false alarms in 1,000 pairs,
votes and ratings. With a tenth of the labels flipped, and as much taste again that the model does not represent, there
are 1.8, 1.4 and 0.2. A user whose taste is reversed is detected after 10 pairs, 13 votes or 10 ratings (medians). A
user who becomes a new draw from the population is detected after 29 pairs or 40 votes. In a quarter to a half of those
cases the change is not detected at all, because it is small or because ordinary learning is as quick.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.errors import ModelError
from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import Site, compute_site
from penchant.models.taste.observations import Observation
from penchant.models.taste.population import Beliefs, FactoredBeliefs, Population

Vector = NDArray[np.float64]

NEGLIGIBLE: Final = 1e-12
"""Evidence below this counts as none: users differ by 1 in these coordinates."""

CHANGE_THRESHOLD: Final = 5.0
"""Value of the change statistic above which the user has changed, in nats."""

MAX_LOG_RATIO: Final = 1.0
"""Largest amount by which one judgement can raise or lower the change statistic, in nats."""

RETAINED_SHARE: Final = 0.25
"""Factor on the evidence of older judgements when a change is detected."""

_HEADER: Final = struct.Struct("<4sHHIdI")
_MAGIC: Final = b"pup2"


class PosteriorError(ModelError, ValueError):
    """Bytes or numbers are not a valid posterior of this population."""


@dataclass(frozen=True)
class Utility:
    """Utility of n items for one user.

    Attributes:
        mean: `[n]` mean over archetypes, user position and residuals.
        std: `[n]` standard deviation over archetypes, user position and residuals.
    """

    mean: Vector
    std: Vector


@dataclass(frozen=True)
class StoredPosterior:
    """The content of `UserPosterior.to_bytes`, without the population.

    Attributes:
        judgements: Number of judgements learned.
        change_statistic: Evidence that the user has changed, in nats.
        changes: Number of changes detected.
        linear: `[q]` η.
        precision: `[q, q]` Λ.
    """

    judgements: int
    change_statistic: float
    changes: int
    linear: Vector
    precision: Vector


@dataclass(frozen=True)
class UserPosterior:
    """A user's posterior: population prior × Σ judgement sites.

    The evidence is held without the prior. Numbers are float64 in memory and float32 when stored: predictions of a
    posterior that was saved and loaded agree with the original's to about 1e-6.

    Attributes:
        population: The prior over users.
        precision: `[q, q]` Λ, the sum of the sites' precisions.
        linear: `[q]` η, the sum of their linear terms.
        judgements: Number of judgements learned.
        change_statistic: Evidence that the user has changed, in nats.
        changes: Number of changes detected; each discounted the older judgements.
    """

    population: Population = field(repr=False)
    precision: Vector = field(repr=False)
    linear: Vector = field(repr=False)
    judgements: int = 0
    change_statistic: float = 0.0
    changes: int = 0

    @classmethod
    def at_prior(cls, population: Population) -> "UserPosterior":
        """Return the posterior of a user without judgements: the population."""
        q = population.q
        return cls(population, np.zeros((q, q)), np.zeros(q))

    @property
    def is_prior(self) -> bool:
        """Whether there is no evidence about the user."""
        return not (np.count_nonzero(self.linear) or np.count_nonzero(self.precision))

    @cached_property
    def factored_beliefs(self) -> Beliefs | FactoredBeliefs:
        """Beliefs about this user as far as learning needs them. Cost: O(K q³) on first access."""
        if self.is_prior:
            return self.population.prior
        return FactoredBeliefs(self.population, self.precision, self.linear)

    @cached_property
    def beliefs(self) -> Beliefs:
        """Mixture of Gaussians over y = [t; z]. Cost: O(K q³) on first access."""
        factored = self.factored_beliefs
        return factored if isinstance(factored, Beliefs) else factored.invert()

    @property
    def archetype_weights(self) -> Vector:
        """`[K]` probability of each archetype."""
        return self.beliefs.weights

    def learn(self, observation: Observation) -> "UserPosterior":
        """Return the posterior after one more judgement. If it reveals a change of the user, older ones are discounted.

        Raises:
            LikelihoodError: If the observation is not valid.

        Cost: O(K q³) for the factors of the beliefs and O(K q²) for the site. A pair at 48 coordinates and one archetype
            takes about 0.12 ms.
        """
        site, before, change_statistic = self._compute_site(observation)
        return UserPosterior(
            self.population,
            before.precision + site.precision,
            before.linear + site.linear,
            before.judgements + 1,
            change_statistic,
            before.changes,
        )

    def _compute_site(self, observation: Observation) -> tuple[Site, "UserPosterior", float]:
        """Return the site of a judgement, the evidence to add it to, and the change statistic after it."""
        site = compute_site(observation, self.factored_beliefs, self.population.prior)
        change_statistic = update_change_statistic(
            self.change_statistic, observation.weight * site.log_likelihood_ratio
        )
        if change_statistic > CHANGE_THRESHOLD:
            return self._discount()._compute_site(observation)
        return site, self, change_statistic

    def fold(self, observations: Iterable[Observation]) -> "UserPosterior":
        """Return the posterior after further judgements. Every user state is computed by this method.

        After each judgement the numbers are rounded to the stored precision. The result is therefore the same, bit for
        bit, whether or not a state was saved and loaded in between. Without rounding, the last digit could decide
        whether a change is detected.

        Args:
            observations: Judgements, oldest first.

        Raises:
            LikelihoodError: If an observation is not valid.
            PosteriorError: If a number is not finite in float32, or out of bounds.

        Cost: that of `learn` for each judgement.
        """
        posterior = self
        for observation in observations:
            site, before, change_statistic = posterior._compute_site(observation)
            precision, linear = _round(before.precision + site.precision, before.linear + site.linear)
            posterior = UserPosterior(
                before.population, precision, linear, before.judgements + 1, change_statistic, before.changes
            )
        return posterior

    def _discount(self) -> "UserPosterior":
        """Older judgements discounted after a change."""
        return replace(
            self,
            precision=RETAINED_SHARE * self.precision,
            linear=RETAINED_SHARE * self.linear,
            change_statistic=0.0,
            changes=self.changes + 1,
        )

    def forget(self, elapsed_seconds: float, half_life_seconds: float) -> "UserPosterior":
        """Return the posterior after time has passed: the evidence to the power 2^(−elapsed/half-life).

        Forgetting two spans in succession equals forgetting their sum. When less than `NEGLIGIBLE` is left, the
        posterior is exactly the population again.

        Args:
            elapsed_seconds: At least 0.
            half_life_seconds: Above 0. At infinity nothing is forgotten.

        Raises:
            ValueError: If the elapsed time is negative, the half-life is not positive, or either is NaN.
        """
        if not elapsed_seconds >= 0 or not half_life_seconds > 0:
            raise ValueError(f"cannot forget {elapsed_seconds} s at a half-life of {half_life_seconds} s")
        share = 2.0 ** -(elapsed_seconds / half_life_seconds)
        if share == 1.0:
            return self
        precision, linear = share * self.precision, share * self.linear
        if max(np.abs(precision).max(), np.abs(linear).max()) < NEGLIGIBLE:
            precision, linear = np.zeros_like(precision), np.zeros_like(linear)
        return replace(
            self, precision=precision, linear=linear, change_statistic=share * self.change_statistic
        )

    def utility(self, items: Items) -> Utility:
        """Return mean and standard deviation of u = b + φ·y + residual for each item. Cost: O(n K q²)."""
        means, variances = self.utility_by_archetype(items)
        weights = self.beliefs.weights
        mean = weights @ means
        variance = weights @ (variances + (means - mean) ** 2)
        return Utility(mean, np.sqrt(variance))

    def utility_by_archetype(self, items: Items) -> tuple[Vector, Vector]:
        """Return mean and variance `[K, n]` of each item's utility under each archetype, residuals included."""
        beliefs, features = self.beliefs, items.features
        means = items.base + beliefs.means @ features.T
        user = ((features @ beliefs.covariances) * features).sum(axis=2)
        return means, user + self.residual_by_archetype(items)

    def residual_by_archetype(self, items: Items) -> Vector:
        """Return τ_b² + Σ_d τ_d² E_c[z_d²], `[K, n]`: the variance that the items' residuals add to their utility."""
        second = self.beliefs.second_moments[:, 1:]
        residual: Vector = items.base_variance + second @ items.direction_variance.T
        return residual

    def round_to_stored(self) -> "UserPosterior":
        """Return `from_bytes(to_bytes())`, to the bit, at a tenth of the cost.

        Raises:
            PosteriorError: If a number is not finite in float32, or out of bounds.
        """
        precision, linear = _round(self.precision, self.linear)
        if not 0 <= self.change_statistic <= CHANGE_THRESHOLD:
            raise PosteriorError("a number is out of bounds")
        return UserPosterior(
            self.population, precision, linear, self.judgements, self.change_statistic, self.changes
        )

    def to_bytes(self) -> bytes:
        """Return header, η and the upper triangle of Λ in float32: 24 + 4(q + q(q+1)/2) bytes, 704 at q = 17."""
        q = self.population.q
        header = _HEADER.pack(
            _MAGIC, q, len(self.population.weights), self.judgements, self.change_statistic, self.changes
        )
        numbers = np.concatenate([self.linear, self.precision[_upper(q)]])
        return header + numbers.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, blob: bytes, population: Population) -> "UserPosterior":
        """Return the posterior that `to_bytes` wrote.

        Raises:
            PosteriorError: If the bytes are damaged, have another format, or belong to a population of another size.
        """
        q = population.q
        size = _HEADER.size + 4 * (q + q * (q + 1) // 2)
        if blob[: len(_MAGIC)] != _MAGIC:
            raise PosteriorError(f"the bytes start with {blob[: len(_MAGIC)]!r}, a posterior with {_MAGIC!r}")
        if len(blob) != size:
            raise PosteriorError(f"{len(blob)} bytes, a posterior of {q} coordinates has {size}")
        _, stored_q, archetypes, *_ = _HEADER.unpack_from(blob)
        if (stored_q, archetypes) != (q, len(population.weights)):
            raise PosteriorError(
                f"{stored_q} coordinates and {archetypes} archetypes do not fit this population"
            )
        stored = read_stored_posterior(blob)
        if not (
            np.isfinite(stored.linear).all()
            and np.isfinite(stored.precision).all()
            and 0 <= stored.change_statistic <= CHANGE_THRESHOLD
        ):
            raise PosteriorError("a number is not finite, or out of bounds")
        return cls(
            population,
            stored.precision,
            stored.linear,
            stored.judgements,
            stored.change_statistic,
            stored.changes,
        )


def update_change_statistic(change_statistic: float, log_likelihood_ratio: float) -> float:
    """Return the change statistic after one more judgement.

    Args:
        change_statistic: Its value before the judgement.
        log_likelihood_ratio: Log probability of the judgement under the population minus that under the user's
            posterior.
    """
    if math.isnan(log_likelihood_ratio):  # the judgement is impossible under both
        return change_statistic
    return max(0.0, change_statistic + max(-MAX_LOG_RATIO, min(MAX_LOG_RATIO, log_likelihood_ratio)))


def _round(precision: Vector, linear: Vector) -> tuple[Vector, Vector]:
    """Return Λ and η with the precision of float32, in which they are stored.

    Raises:
        PosteriorError: If a number is not finite in float32.
    """
    # + 0.0: what is read from bytes has no negative zeros.
    precision = np.add(precision.astype(np.float32), 0.0, dtype=np.float64)
    linear = linear.astype(np.float32).astype(np.float64)
    # The squares of so few float32 cannot overflow: their sum is finite if every number is.
    if not math.isfinite(np.vdot(precision, precision) + linear.dot(linear)):
        raise PosteriorError("a number is not finite")
    return precision, linear


@cache
def _upper(q: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the upper triangle of `[q, q]`. Computing them takes longer than reading a state."""
    rows, columns = np.triu_indices(q)
    return rows, columns


def read_stored_posterior(blob: bytes) -> StoredPosterior:
    """Return the numbers that `UserPosterior.to_bytes` wrote. Their population is not needed.

    Raises:
        PosteriorError: If the bytes are damaged or have another format.
    """
    if blob[: len(_MAGIC)] != _MAGIC or len(blob) < _HEADER.size:
        raise PosteriorError(f"the bytes start with {blob[: len(_MAGIC)]!r}, a posterior with {_MAGIC!r}")
    _, q, _, judgements, change_statistic, changes = _HEADER.unpack_from(blob)
    if len(blob) != _HEADER.size + 4 * (q + q * (q + 1) // 2):
        raise PosteriorError(f"{len(blob)} bytes do not hold a posterior of {q} coordinates")
    numbers = np.frombuffer(blob, "<f4", offset=_HEADER.size).astype(np.float64)
    precision = np.zeros((q, q))
    precision[_upper(q)] = numbers[q:]
    precision = precision + np.triu(precision, 1).T
    return StoredPosterior(judgements, change_statistic, changes, numbers[:q], precision)
