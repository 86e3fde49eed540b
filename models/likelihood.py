"""What each kind of judgement says about a user: one rank-one Gaussian site in natural parameters.

A judgement is about ψ = b + φ·y + e: base utility b, features φ `[q]` of what was judged (a difference for a pair), user
y, and e ~ N(0, r), the item residual that the text does not tell. With e integrated out the site is

    exp(−½ ω' (φ·y)² + l (φ·y)),   ω' = ω/(1 + ωr),   l = ω' (m − b)

where (m, ω) are the pseudo-observation of ψ and its precision: exact for a rating; for a logistic judgement the
Jaakkola–Jordan bound (2000, eq. 13; equal to the Pólya–Gamma mean of Polson et al. 2013), m = y/(2ω),
ω = tanh(ξ/2)/(2ξ), with ξ² = E[ψ²] iterated to its fixed point under the posterior that includes this very site.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.items import Items
from penchant.models.population import Beliefs

LOGISTIC_VARIANCE: Final = math.pi**2 / 3
"""Variance of the standard logistic distribution: the noise of a pair."""

MAX_ITERATIONS: Final = 64
TOLERANCE: Final = 1e-9


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


@dataclass(frozen=True)
class Vote:
    """The user finds `item` good enough (+1) or not (−1): σ(±u)."""

    item: Items
    value: int
    weight: float = 1.0


@dataclass(frozen=True)
class Rating:
    """The user rates `item`, `value` being normalised to [-1, 1]."""

    item: Items
    value: float
    scale: RatingScale
    weight: float = 1.0


Observation = Pair | Vote | Rating


@dataclass(frozen=True)
class Site:
    """exp(−½ yᵀ(precision·φφᵀ)y + linear·φᵀy): what one judgement adds to a user's natural parameters.

    Attributes:
        direction: `[q]` φ.
        precision: Scalar, at least 0.
        linear: Scalar.
    """

    direction: NDArray[np.float64]
    precision: float
    linear: float


def site(observation: Observation, beliefs: Beliefs) -> Site:
    """The site of a judgement, given what is believed of the user before it.

    A fixed `weight` in (0, 1] is a power of the likelihood: it scales the site.

    Raises:
        LikelihoodError: A weight outside (0, 1], a vote other than ±1, or a value that is not finite.

    Cost: O(K q²), about 50 µs for a pair at q = 17.
    """
    if not 0 < observation.weight <= 1:
        raise LikelihoodError(f"weight must be in (0, 1], is {observation.weight}")
    match observation:
        case Pair(winner, loser):
            found = _pair(winner, loser, beliefs)
        case Vote(item, value):
            if value not in (-1, 1):
                raise LikelihoodError(f"a vote is 1 or -1, not {value}")
            found = _logistic(
                item.features[0], float(item.base[0]), _residual(item, beliefs), float(value), beliefs
            )
        case Rating(item, value, scale):
            if not math.isfinite(value):
                raise LikelihoodError(f"a rating must be finite, is {value}")
            found = _rating(item, value, scale, beliefs)
    weight = observation.weight
    return Site(found.direction, weight * found.precision, weight * found.linear)


def _pair(winner: Items, loser: Items, beliefs: Beliefs) -> Site:
    direction = winner.features[0] - loser.features[0]
    if winner.keys[0] == loser.keys[0]:  # one text against itself: residuals cancel, and nothing is said
        return Site(np.zeros_like(direction), 0.0, 0.0)
    residual = _residual(winner, beliefs) + _residual(loser, beliefs)
    return _logistic(direction, float(winner.base[0] - loser.base[0]), residual, 1.0, beliefs)


def _rating(item: Items, value: float, scale: RatingScale, beliefs: Beliefs) -> Site:
    """R = o + β(b + φ·y + e) + ε: exact given the residual variance."""
    noise = (scale.noise / scale.slope) ** 2 + _residual(item, beliefs)
    target = (value - scale.offset) / scale.slope
    return Site(item.features[0], 1 / noise, (target - float(item.base[0])) / noise)


def _residual(item: Items, beliefs: Beliefs) -> float:
    """R = τ_b² + Σ_d τ_d² E[z_d²]: variance that the item's residuals add to its utility for this user."""
    second = beliefs.weights @ beliefs.second_moments
    return float(item.base_variance[0] + item.direction_variance[0] @ second[1:])


def _logistic(
    direction: NDArray[np.float64], base: float, residual: float, label: float, beliefs: Beliefs
) -> Site:
    """Site of σ(label·ψ), with ξ at the fixed point of ξ² = Σ_c w_c E_c[ψ²].

    Along φ everything is one-dimensional: before the site ψ ~ N(a_c, V_c) per archetype; after it the precision is
    1/V_c + ω and the linear term a_c/V_c + y/2.
    """
    centres = (base + beliefs.means @ direction).tolist()
    spreads = ((beliefs.covariances @ direction) @ direction + residual).tolist()
    weights = beliefs.weights.tolist()
    # Scalars per archetype: plain floats are several times faster here than arrays of length K.
    parts = list(zip(weights, centres, spreads, strict=True))
    xi = math.sqrt(max(sum(w * (a * a + v) for w, a, v in parts), 1e-12))
    for _ in range(MAX_ITERATIONS):
        omega = _omega(xi)
        second = 0.0
        for w, a, v in parts:
            shrink = 1 / (1 + omega * v)
            mean = shrink * (a + 0.5 * label * v)
            second += w * (mean * mean + shrink * v)
        previous, xi = xi, math.sqrt(max(second, 1e-12))
        if abs(xi - previous) <= TOLERANCE * max(1.0, xi):
            break
    omega = _omega(xi)
    damped = 1 + omega * residual
    return Site(direction, omega / damped, (0.5 * label - omega * base) / damped)


def _omega(xi: float) -> float:
    """tanh(ξ/2)/(2ξ), ¼ at 0."""
    return 0.25 - xi * xi / 48 if xi < 1e-3 else math.tanh(xi / 2) / (2 * xi)
