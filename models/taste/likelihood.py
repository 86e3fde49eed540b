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
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.taste import listwise
from penchant.models.taste.beliefs import Portrait, Projection
from penchant.models.taste.contrast import Contrast, Parts, chance, log, log_density, sigmoid, tilt
from penchant.models.taste.observations import (
    LikelihoodError,
    Observation,
    Pair,
    Ranking,
    Rating,
    RatingScale,
    Vote,
    checked,
)
from penchant.models.taste.population import Beliefs
from penchant.models.taste.sites import JointSite, LineSite, Site

__all__ = [
    "JointSite",
    "LikelihoodError",
    "LineSite",
    "Observation",
    "Pair",
    "Ranking",
    "Rating",
    "RatingScale",
    "Site",
    "Vote",
    "log_probability",
    "site",
    "site_of",
]

LOGISTIC_VARIANCE: Final = math.pi**2 / 3
"""Variance of the standard logistic distribution: the noise of a pair."""

LOG_UNIFORM_RATING: Final = -math.log(2)
"""Log density on [-1, 1] of a rating that says nothing."""

Vector = NDArray[np.float64]


def site(observation: Observation, beliefs: Beliefs) -> Site:
    """The site of a judgement, given what is believed of the user before it.

    Raises:
        LikelihoodError: As `checked`.

    Cost: as `site_of`, and the layout of a portrait.
    """
    return site_of(observation, Portrait.of(beliefs, beliefs))


def site_of(observation: Observation, before: Portrait) -> Site:
    """The site of a judgement, given what is believed of the user and of a stranger before it.

    Raises:
        LikelihoodError: As `checked`.

    Cost: O(K q²) for a pair, vote or rating; a ranking as `listwise.gaussian_site`.
    """
    told = checked(observation)
    if isinstance(told, Ranking):
        return _ranking(told, before)
    contrast = _contrast(told)
    projection = Projection(contrast, before)
    right, wrong = _chances(told, projection.parts)
    surprise, responsibility = _chances(told, projection.stranger)[0] - right, 1.0
    if told.flip:
        by_stranger = _either(told.flip, *_chances(told, projection.stranger))
        surprise = by_stranger - _either(told.flip, right, wrong)
        responsibility = _responsibility(told.flip, right, wrong)
    if isinstance(told, Rating):
        # r = o + β(b + φ·y + e) + ε: exact given the residual variance.
        scale, power = told.scale, told.weight * responsibility
        variance = (scale.noise / scale.slope) ** 2 + power * projection.residual
        target = (told.value - scale.offset) / scale.slope
        precision, linear = power / variance, power * (target - contrast.base) / variance
    else:
        pull = told.weight * (responsibility - 0.5)
        omega = tilt(projection.parts, told.weight, pull)
        damped = 1 + omega * projection.residual
        precision, linear = omega / damped, (pull - omega * contrast.base) / damped
    return LineSite(contrast.direction, precision, linear, surprise, before, projection)


def log_probability(observation: Observation, beliefs: Beliefs) -> float:
    """Log probability (of a rating: density in r) of a judgement by a user of whom this is believed.

    Raises:
        LikelihoodError: As `checked`.
    """
    told = checked(observation)
    if isinstance(told, Ranking):
        chances = _order_chances(told, _utilities(told, beliefs)[0])
    else:
        projection = Projection(_contrast(told), Portrait.of(beliefs, beliefs))
        chances = _chances(told, projection.parts)
    return _either(told.flip, *chances)


def _contrast(told: Pair | Vote | Rating) -> Contrast:
    match told:
        case Pair(winner, loser):
            return Contrast(winner, loser)
        case Vote(item, value):
            return Contrast(item, sign=float(value))
        case Rating(item):
            return Contrast(item)


def _chances(told: Pair | Vote | Rating, parts: Parts) -> tuple[float, float]:
    """Log probability of what was said if the label is right, and if it is wrong."""
    if isinstance(told, Rating):
        return log_density(parts, told.value, told.scale), LOG_UNIFORM_RATING
    right = chance(parts)
    return log(right), log(1 - right)


def _ranking(ranking: Ranking, before: Portrait) -> JointSite:
    """One joint site on all utilities, the residuals integrated out afterwards."""
    utilities, factors, residual = _utilities(ranking, before.beliefs)
    right, wrong = _order_chances(ranking, utilities)
    surprise = 0.0
    if before.stranger is not before.beliefs:
        surprise = log_probability(ranking, before.stranger) - _either(ranking.flip, right, wrong)
    power = ranking.weight * _responsibility(ranking.flip, right, wrong)
    core, push = listwise.gaussian_site(ranking.groups, utilities, power)
    push = push - core @ (ranking.items.base - ranking.items.base[-1])
    core, push = listwise.without_residuals(core, push, residual)
    return JointSite(factors[:-1], core[:-1, :-1], push[:-1], surprise, before)


def _order_chances(ranking: Ranking, utilities: Beliefs) -> tuple[float, float]:
    """As `_chances`."""
    right = listwise.log_probability(ranking.groups, utilities)
    return right, listwise.uniform_log_likelihood(ranking.groups)


def _utilities(ranking: Ranking, beliefs: Beliefs) -> tuple[Beliefs, Vector, Vector]:
    """Utilities relative to the last item's, their features `[n, q]`, and the residuals' covariance `[n, n]`.

    Only differences are compared: without the last item's features the threshold drops out exactly.
    """
    items = ranking.items
    factors = items.features - items.features[-1]
    variances = items.base_variance + items.direction_variance @ beliefs.expected_squares[1:]
    same = np.array([[key == other for other in items.keys] for key in items.keys])
    residual = np.where(same, variances, 0.0)  # equal texts share one residual
    # Of the differences to the last: as in `Moments.relative`, so that one site is one site, at once or one by one.
    apart = residual - residual[-1] - residual[:, -1:] + residual[-1, -1]
    means = items.base - items.base[-1] + beliefs.means @ factors.T
    covariances = factors @ beliefs.covariances @ factors.T + apart
    return Beliefs(beliefs.weights, means, covariances), factors, residual


def _either(flip: float, right: float, wrong: float) -> float:
    """log((1 − ε) e^right + ε e^wrong)."""
    if not flip:
        return right
    return float(np.logaddexp(log(1 - flip) + right, log(flip) + wrong))


def _responsibility(flip: float, right: float, wrong: float) -> float:
    """P(the label is right | it is this)."""
    if not flip:
        return 1.0
    return 0.0 if flip == 1 else sigmoid(log(1 - flip) + right - log(flip) - wrong)
