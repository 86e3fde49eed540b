"""`UserPosterior`: what is known of one user, an immutable value of under 1 KB."""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.errors import ModelError
from penchant.models.taste.beliefs import Portrait
from penchant.models.taste.change_detection import KEPT, LEVEL, accumulate
from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import site_of
from penchant.models.taste.observations import Observation
from penchant.models.taste.population import Beliefs, Population

Vector = NDArray[np.float64]

FRESH_EVERY: Final = 128
"""Judgements after which beliefs are computed from the evidence again, so that rounding errors do not add up."""

NEGLIGIBLE: Final = 1e-12
"""Evidence that is none: users differ by 1 in these coordinates."""

_HEADER: Final = struct.Struct("<4sHHIdI")
_MAGIC: Final = b"pup2"


class PosteriorError(ModelError, ValueError):
    """Stored bytes are not a posterior of this population."""


@dataclass(frozen=True)
class Utility:
    """Utility of n items for one user.

    Attributes:
        mean: `[n]` mean over archetypes, user position and residuals.
        std: `[n]` standard deviation of the same.
    """

    mean: Vector
    std: Vector


@dataclass(frozen=True)
class StoredNumbers:
    """What `UserPosterior.to_bytes` wrote, for whichever population.

    Attributes:
        judgements: How many were learned.
        surprise: Evidence of a change, in nats.
        changes: How often older judgements were discounted.
        linear: `[q]`.
        precision: `[q, q]`.
    """

    judgements: int
    surprise: float
    changes: int
    linear: Vector
    precision: Vector


@dataclass(frozen=True)
class UserPosterior:
    """A user's posterior: population prior × Σ judgement sites.

    The evidence is held without the prior. Numbers are float64 here and float32 when stored, so that a posterior that
    was saved and loaded predicts what the saved one did to about 1e-6.

    Attributes:
        population: The prior over users.
        precision: `[q, q]` Λ, the sum of the sites' precisions.
        linear: `[q]` η, the sum of their linear terms.
        judgements: How many were learned.
        surprise: Evidence that the user has changed (`change_detection`), in nats.
        changes: How often older judgements were discounted because of it.
    """

    population: Population = field(repr=False)
    precision: Vector = field(repr=False)
    linear: Vector = field(repr=False)
    judgements: int = 0
    surprise: float = 0.0
    changes: int = 0

    @classmethod
    def at_prior(cls, population: Population) -> "UserPosterior":
        """A user nobody has heard from: the population."""
        q = population.q
        return cls(population, np.zeros((q, q)), np.zeros(q))

    @cached_property
    def portrait(self) -> Portrait:
        """Beliefs about this user beside those about a stranger.

        Cost: O(K q³) once, or nothing where `learn` carried them forward.
        """
        prior = self.population.prior
        if not (self.precision.any() or self.linear.any()):
            return Portrait.of(prior, prior)
        return Portrait.of(self.population.update(self.precision, self.linear), prior)

    @property
    def beliefs(self) -> Beliefs:
        """Mixture of Gaussians over y = [t; z]."""
        return self.portrait.beliefs

    @property
    def archetype_weights(self) -> Vector:
        """`[K]` how much this user looks like each archetype."""
        return self.beliefs.weights

    def learn(self, observation: Observation) -> "UserPosterior":
        """The posterior after one more judgement; if it shows that the user has changed, older ones count less.

        Raises:
            LikelihoodError: As `site`.

        Cost: O(K q²): one site, and one rank-one update of the beliefs it was taken under; a pair at q = 17 takes 51 µs
        with one archetype and 96 µs with four on a shared 2.5 GHz core. Every 128th judgement the beliefs are computed
        anew, O(K q³).
        """
        found = site_of(observation, self.portrait)
        surprise = accumulate(self.surprise, observation.weight * found.surprise)
        if surprise > LEVEL:
            return self._changed().learn(observation)
        precision, linear = found.added_to(self.precision, self.linear)
        learned = UserPosterior(
            self.population, precision, linear, self.judgements + 1, surprise, self.changes
        )
        if learned.judgements % FRESH_EVERY:
            # What the cached property would compute by inverting.
            learned.__dict__["portrait"] = found.after()
        return learned

    def fold(self, said: Iterable[Observation]) -> "UserPosterior":
        """The posterior after further judgements, in their order: what a user's state is, wherever it is computed.

        After each judgement the numbers are rounded as they are stored. So it makes no difference whether a state was
        saved and read again in between, not even in the last digit, on which a change point may hang.

        Args:
            said: Judgements, oldest first.

        Raises:
            LikelihoodError: As `site`.
            PosteriorError: A number is not finite in float32, or out of bounds.

        Cost: `learn` for each of them, and beliefs computed anew, O(K q³).
        """
        posterior = self
        for observation in said:
            posterior = posterior.learn(observation).as_stored()
        return posterior

    def _changed(self) -> "UserPosterior":
        return replace(
            self,
            precision=KEPT * self.precision,
            linear=KEPT * self.linear,
            surprise=0.0,
            changes=self.changes + 1,
        )

    def forget(self, elapsed_seconds: float, half_life_seconds: float) -> "UserPosterior":
        """What is left when time has passed: the evidence to the power 2^(−elapsed/half-life).

        Composes: two spans forgotten one after the other are their sum. In the end, when less than `NEGLIGIBLE` is
        left, the user is exactly the population again.

        Args:
            elapsed_seconds: At least 0.
            half_life_seconds: Above 0; infinity forgets nothing.

        Raises:
            ValueError: Time runs backwards, or there is no half-life.
        """
        if not elapsed_seconds >= 0 or not half_life_seconds > 0:
            raise ValueError(f"cannot forget {elapsed_seconds} s at a half-life of {half_life_seconds} s")
        share = 2.0 ** -(elapsed_seconds / half_life_seconds)
        if share == 1.0:
            return self
        precision, linear = share * self.precision, share * self.linear
        if max(np.abs(precision).max(), np.abs(linear).max()) < NEGLIGIBLE:
            precision, linear = np.zeros_like(precision), np.zeros_like(linear)
        return replace(self, precision=precision, linear=linear, surprise=share * self.surprise)

    def utility(self, items: Items) -> Utility:
        """Mean and standard deviation of u = b + φ·y + residual, per item. Cost: O(n K q²)."""
        means, variances = self.utility_by_archetype(items)
        weights = self.beliefs.weights
        mean = weights @ means
        variance = weights @ (variances + (means - mean) ** 2)
        return Utility(mean, np.sqrt(variance))

    def utility_by_archetype(self, items: Items) -> tuple[Vector, Vector]:
        """Mean and variance `[K, n]` of every item's utility under each archetype, residuals included."""
        beliefs, features = self.beliefs, items.features
        means = items.base + beliefs.means @ features.T
        user = ((features @ beliefs.covariances) * features).sum(axis=2)
        return means, user + self.residual_by_archetype(items)

    def residual_by_archetype(self, items: Items) -> Vector:
        """τ_b² + Σ_d τ_d² E_c[z_d²], `[K, n]`: what the items' residuals add to the variance of their utility."""
        second = self.beliefs.second_moments[:, 1:]
        residual: Vector = items.base_variance + second @ items.direction_variance.T
        return residual

    def as_stored(self) -> "UserPosterior":
        """What `from_bytes` makes of `to_bytes`, to the bit, at a tenth of the cost.

        Raises:
            PosteriorError: A number is not finite in float32, or out of bounds.
        """
        rounded = self.precision.astype(np.float32).astype(np.float64)
        # + 0: a matrix that was read has no negative zeros.
        precision = np.ascontiguousarray(np.where(_upper_half(len(rounded)), rounded, rounded.T) + 0.0)
        linear = self.linear.astype(np.float32).astype(np.float64)
        # Sums of so few float32 cannot overflow: they are finite where every number is.
        if not (math.isfinite(precision.sum() + linear.sum()) and 0 <= self.surprise <= LEVEL):
            raise PosteriorError("a number is not finite, or out of bounds")
        return UserPosterior(self.population, precision, linear, self.judgements, self.surprise, self.changes)

    def to_bytes(self) -> bytes:
        """Header, η and the upper triangle of Λ in float32: 24 + 4(q + q(q+1)/2) bytes, 704 at q = 17."""
        q = self.population.q
        header = _HEADER.pack(
            _MAGIC, q, len(self.population.weights), self.judgements, self.surprise, self.changes
        )
        numbers = np.concatenate([self.linear, self.precision[_upper(q)]])
        return header + numbers.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, blob: bytes, population: Population) -> "UserPosterior":
        """Reads what `to_bytes` wrote.

        Raises:
            PosteriorError: The bytes are damaged, of another format, or belong to a population of another size.
        """
        q = population.q
        size = _HEADER.size + 4 * (q + q * (q + 1) // 2)
        if blob[: len(_MAGIC)] != _MAGIC:
            raise PosteriorError(f"starts with {blob[: len(_MAGIC)]!r}, a posterior with {_MAGIC!r}")
        if len(blob) != size:
            raise PosteriorError(f"{len(blob)} bytes, a posterior of {q} coordinates has {size}")
        _, stored_q, archetypes, *_ = _HEADER.unpack_from(blob)
        if (stored_q, archetypes) != (q, len(population.weights)):
            raise PosteriorError(
                f"{stored_q} coordinates and {archetypes} archetypes do not fit this population"
            )
        found = stored_numbers(blob)
        if not (
            np.isfinite(found.linear).all()
            and np.isfinite(found.precision).all()
            and 0 <= found.surprise <= LEVEL
        ):
            raise PosteriorError("a number is not finite, or out of bounds")
        return cls(population, found.precision, found.linear, found.judgements, found.surprise, found.changes)


@cache
def _upper(q: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the upper triangle of `[q, q]`, found once: reading and writing a state takes little more."""
    rows, columns = np.triu_indices(q)
    return rows, columns


@cache
def _upper_half(q: int) -> NDArray[np.bool_]:
    """`[q, q]` where the upper triangle is."""
    return np.triu(np.ones((q, q), np.bool_))


def stored_numbers(blob: bytes) -> StoredNumbers:
    """Reads what `UserPosterior.to_bytes` wrote, where its population is not at hand.

    Raises:
        PosteriorError: The bytes are damaged, or of another format.
    """
    if blob[: len(_MAGIC)] != _MAGIC or len(blob) < _HEADER.size:
        raise PosteriorError(f"starts with {blob[: len(_MAGIC)]!r}, a posterior with {_MAGIC!r}")
    _, q, _, judgements, surprise, changes = _HEADER.unpack_from(blob)
    if len(blob) != _HEADER.size + 4 * (q + q * (q + 1) // 2):
        raise PosteriorError(f"{len(blob)} bytes do not hold a posterior of {q} coordinates")
    numbers = np.frombuffer(blob, "<f4", offset=_HEADER.size).astype(np.float64)
    precision = np.zeros((q, q))
    precision[_upper(q)] = numbers[q:]
    precision = precision + np.triu(precision, 1).T
    return StoredNumbers(judgements, surprise, changes, numbers[:q], precision)
