"""What each kind of judgement says about a user: one Gaussian site in natural parameters.

A judgement is about utilities ψ = b + φ·y + e: base utility b, features φ `[q]` of what was judged, user y, and
e ~ N(0, r), the item residual that the text does not tell. With e integrated out a site on one ψ is

    exp(−½ ω' (φ·y)² + l (φ·y)),   ω' = ω/(1 + ωr),   l = ω' (m − b)

where (m, ω) are the pseudo-observation of ψ and its precision: exact for a rating; for a vote or pair (ψ being the
difference) the Jaakkola–Jordan bound (2000, eq. 13; equal to the Pólya–Gamma mean of Polson et al. 2013), m = y/(2ω),
ω = tanh(ξ/2)/(2ξ), with ξ² = E[ψ²] iterated to its fixed point under the posterior that includes this very site. A
choice or ranking of more than two is one site on all its utilities (`listwise`).

`weight` in (0, 1] is a power of the likelihood. `flip` is the rate ε at which labels of the source are wrong: a pair or
vote is then the reverse of what is meant, a rating or ranking says nothing at all (it is uniform). With r the
probability that this label is right, given what is believed of the user, the former's linear term is multiplied by
2r − 1 while the precision stays, the latter's site by r.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models import listwise
from penchant.models.items import Items
from penchant.models.margin import Margin, log, sigmoid
from penchant.models.population import Beliefs

LOGISTIC_VARIANCE: Final = math.pi**2 / 3
"""Variance of the standard logistic distribution: the noise of a pair."""

LOG_UNIFORM_RATING: Final = -math.log(2)
"""Log density on [-1, 1] of a rating that says nothing."""

Vector = NDArray[np.float64]


class LikelihoodError(ValueError):
    """A judgement whose numbers cannot be learned from."""


@dataclass(frozen=True)
class RatingScale:
    """How a source's ratings, normalised to [-1, 1], arise from utility: r = offset + slope·u + N(0, noise²)."""

    offset: float
    slope: float
    noise: float


@dataclass(frozen=True)
class Pair:
    """The user prefers `winner` to `loser` (one row each): σ(u_winner − u_loser)."""

    winner: Items
    loser: Items
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Vote:
    """The user finds `item` good enough (+1) or not (−1): σ(±u)."""

    item: Items
    value: int
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Rating:
    """The user rates `item`, `value` being normalised to [-1, 1]."""

    item: Items
    value: float
    scale: RatingScale
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """The user orders n items: Plackett–Luce, ties by Efron's approximation.

    Attributes:
        items: n items, best first.
        groups: Sizes of the groups of tied items, best first, sum n. The last group says nothing among itself: the
            choice of one among n is (1, n − 1).
        weight: Power of the likelihood, in (0, 1].
        flip: Probability that the order says nothing.
    """

    items: Items
    groups: tuple[int, ...]
    weight: float = 1.0
    flip: float = 0.0


Observation = Pair | Vote | Rating | Ranking


@dataclass(frozen=True)
class Site:
    """exp(−½ yᵀΛy + ηᵀy), Λ = FᵀCF, η = Fᵀp: what one judgement adds to a user's natural parameters.

    Attributes:
        factors: `[r, q]` F: what the judgement is about; r = 1 but for a choice or ranking.
        core: `[r, r]` C, symmetric positive semidefinite.
        push: `[r]` p.
    """

    factors: Vector
    core: Vector
    push: Vector

    @property
    def precision(self) -> Vector:
        """`[q, q]` Λ."""
        found: Vector = self.factors.T @ self.core @ self.factors
        return found

    @property
    def linear(self) -> Vector:
        """`[q]` η."""
        found: Vector = self.push @ self.factors
        return found


def site(observation: Observation, beliefs: Beliefs) -> Site:
    """The site of a judgement, given what is believed of the user before it.

    Raises:
        LikelihoodError: A weight outside (0, 1], a flip rate outside [0, 1], a vote other than ±1, a rating that is
            not finite, or groups that do not add up to the items.

    Cost: O(K q²), about 25 µs for a pair at q = 17; a ranking as `listwise.gaussian_site`.
    """
    match _checked(observation):
        case Ranking() as ranking:
            return _ranking(ranking, beliefs)
        case Rating() as rating:
            return _rating(rating, beliefs)
        case Pair() | Vote() as told:
            return _logistic(told, beliefs)


def log_probability(observation: Observation, beliefs: Beliefs) -> float:
    """Log probability (of a rating: density in r) of a judgement by a user of whom this is believed.

    Raises:
        LikelihoodError: As `site`.
    """
    match _checked(observation):
        case Ranking(groups=groups) as ranking:
            right = listwise.log_probability(groups, *_utilities(ranking, beliefs)[1:3])
            wrong = listwise.uniform_log_likelihood(groups)
        case Rating(value=value, scale=scale) as rating:
            right = _margin(rating, beliefs).log_density(value, scale.offset, scale.slope, scale.noise)
            wrong = LOG_UNIFORM_RATING
        case Pair() | Vote() as told:
            chance = 0.5 if _same_text(told) else _margin(told, beliefs).chance()
            right, wrong = log(chance), log(1 - chance)
    return _either(observation.flip, right, wrong)


def _checked(observation: Observation) -> Observation:
    if not 0 < observation.weight <= 1:
        raise LikelihoodError(f"weight must be in (0, 1], is {observation.weight}")
    if not 0 <= observation.flip <= 1:
        raise LikelihoodError(f"flip must be in [0, 1], is {observation.flip}")
    match observation:
        case Vote(value=value) if value not in (-1, 1):
            raise LikelihoodError(f"a vote is 1 or -1, not {value}")
        case Rating(value=value) if not math.isfinite(value):
            raise LikelihoodError(f"a rating must be finite, is {value}")
        case Ranking(items, groups):
            if len(items) < 2 or min(groups, default=0) < 1 or sum(groups) != len(items):
                raise LikelihoodError(f"groups {groups} do not order {len(items)} items")
            if groups == (1, 1):
                return Pair(items[0], items[1], observation.weight, observation.flip)
    return observation


def _margin(told: Pair | Vote | Rating, beliefs: Beliefs) -> Margin:
    if isinstance(told, Pair):
        winner, loser = told.winner, told.loser
        return Margin(
            winner.features[0] - loser.features[0],
            float(winner.base[0]) - float(loser.base[0]),
            float(winner.base_variance[0]) + float(loser.base_variance[0]),
            winner.direction_variance[0] + loser.direction_variance[0],
            beliefs,
        )
    item = told.item
    sign = -1.0 if isinstance(told, Vote) and told.value < 0 else 1.0
    return Margin(
        sign * item.features[0],
        sign * float(item.base[0]),
        float(item.base_variance[0]),
        item.direction_variance[0],
        beliefs,
    )


def _logistic(told: Pair | Vote, beliefs: Beliefs) -> Site:
    if _same_text(told):  # residuals cancel, and nothing is said
        return _nothing(beliefs)
    margin, pull = _margin(told, beliefs), 0.5 * told.weight
    if told.flip:
        chance = margin.chance()
        pull *= 2 * _responsibility(told.flip, log(chance), log(1 - chance)) - 1
    omega = margin.tilt(told.weight, pull)
    damped = 1 + omega * margin.residual
    return _rank_one(margin, omega / damped, (pull - omega * margin.base) / damped)


def _rating(rating: Rating, beliefs: Beliefs) -> Site:
    """R = o + β(b + φ·y + e) + ε: exact given the residual variance."""
    margin, scale, power = _margin(rating, beliefs), rating.scale, rating.weight
    if rating.flip:
        right = margin.log_density(rating.value, scale.offset, scale.slope, scale.noise)
        power *= _responsibility(rating.flip, right, LOG_UNIFORM_RATING)
    variance = (scale.noise / scale.slope) ** 2 + power * margin.residual
    target = (rating.value - scale.offset) / scale.slope
    return _rank_one(margin, power / variance, power * (target - margin.base) / variance)


def _rank_one(margin: Margin, precision: float, linear: float) -> Site:
    return Site(margin.direction[None], np.array([[precision]]), np.array([linear]))


def _ranking(ranking: Ranking, beliefs: Beliefs) -> Site:
    """One joint site on all utilities, the residuals integrated out afterwards."""
    groups, power = ranking.groups, ranking.weight
    if len(groups) == 1:  # all tied
        return _nothing(beliefs)
    factors, mean, covariance, residual = _utilities(ranking, beliefs)
    if ranking.flip:
        right = listwise.log_probability(groups, mean, covariance)
        power *= _responsibility(ranking.flip, right, listwise.uniform_log_likelihood(groups))
    core, push = listwise.gaussian_site(groups, mean, covariance, power)
    core, push = listwise.without_residuals(core, push, residual)
    push += core @ (factors @ beliefs.mean)  # it was about deviations from this mean
    return Site(factors[:-1], core[:-1, :-1], push[:-1])


def _utilities(ranking: Ranking, beliefs: Beliefs) -> tuple[Vector, Vector, Vector, Vector]:
    """Utilities relative to the last item's: features `[n, q]`, mean `[n]`, covariance and residuals `[n, n]`.

    Only differences are compared: without the last item's features the threshold drops out exactly.
    """
    items = ranking.items
    factors = items.features - items.features[-1]
    variances = items.base_variance + items.direction_variance @ beliefs.expected_squares[1:]
    same = np.array([[key == other for other in items.keys] for key in items.keys])
    residual = np.where(same, variances, 0.0)  # equal texts share one residual
    mean = items.base - items.base[-1] + factors @ beliefs.mean
    return factors, mean, factors @ beliefs.covariance @ factors.T + residual, residual


def _same_text(told: Pair | Vote) -> bool:
    return isinstance(told, Pair) and told.winner.keys[0] == told.loser.keys[0]


def _nothing(beliefs: Beliefs) -> Site:
    return Site(np.zeros((1, beliefs.means.shape[1])), np.zeros((1, 1)), np.zeros(1))


def _responsibility(flip: float, right: float, wrong: float) -> float:
    """P(the label is right | it is this), from its log probabilities if right and if wrong."""
    if flip == 1.0:
        return 0.0
    return sigmoid(right - wrong + log(1 - flip) - log(flip))


def _either(flip: float, right: float, wrong: float) -> float:
    """log((1 − ε) e^right + ε e^wrong)."""
    if not flip:
        return right
    return float(np.logaddexp(log(1 - flip) + right, log(flip) + wrong))
