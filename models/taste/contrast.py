"""One number ψ that a pair, vote or rating is about: ψ = base + direction·y + e, and what evidence makes of it."""

import math
from typing import Final

import numpy as np

from penchant.models.taste.items import Items
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.rescues import rescues

Parts = list[tuple[float, float, float]]
"""ψ as a mixture: (weight, mean, variance) of each archetype. Plain floats are several times faster here than arrays of
length K."""

MAX_ITERATIONS: Final = 64
TOLERANCE: Final = 1e-4
TILT: Final = "bound of a pair or vote"
"""What `rescues` calls the iteration of `tilt`."""
"""Of a step before it is accelerated; what is left after that is of the order of its square."""
SMALLEST: Final = 1e-12
"""Of ξ²."""


class Contrast:
    """What a pair (winner over loser), vote (for or against) or rating compares: ψ without the user.

    Attributes:
        direction: `[q]`.
        base: What of ψ does not depend on the user.
        base_variance: τ_b² of the texts.
        direction_variance: `[k]` τ_d².
    """

    __slots__ = ("base", "base_variance", "direction", "direction_variance")

    def __init__(self, item: Items, against: Items | None = None, sign: float = 1.0) -> None:
        direction = np.empty(1 + item.directions.shape[1])
        if against is None:
            direction[0], direction[1:] = sign, sign * item.directions[0]
            self.base, self.base_variance = sign * item.base.item(), item.base_variance.item()
            self.direction_variance = item.direction_variance[0]
        elif item.keys[0] == against.keys[0]:
            # One text against itself: residuals cancel, and nothing is said.
            direction[:] = 0.0
            self.base, self.base_variance, self.direction_variance = 0.0, 0.0, direction[1:]
        else:
            direction[0] = 0.0
            np.subtract(item.directions[0], against.directions[0], out=direction[1:])
            self.base = item.base.item() - against.base.item()
            self.base_variance = item.base_variance.item() + against.base_variance.item()
            self.direction_variance = item.direction_variance[0] + against.direction_variance[0]
        self.direction = direction


def chance(parts: Parts) -> float:
    """E[σ(ψ)] ≈ Σ_c w_c σ(mean_c/√(1 + π variance_c/8)) (MacKay 1992, eq. 10)."""
    total = 0.0
    for w, a, v in parts:
        total += w * sigmoid(a / math.sqrt(1 + math.pi / 8 * v))
    return total


def log_density(parts: Parts, value: float, scale: RatingScale) -> float:
    """Log density of a rating r = offset + slope·ψ + N(0, noise²) at a value."""
    logs = []
    for w, a, v in parts:
        variance = scale.slope * scale.slope * v + scale.noise * scale.noise
        miss = value - scale.offset - scale.slope * a
        logs.append(log(w) - 0.5 * (miss * miss / variance + math.log(2 * math.pi * variance)))
    top = max(logs)
    return top + math.log(sum(math.exp(one - top) for one in logs))


def tilt(parts: Parts, weight: float, pull: float) -> float:
    """ω of the Jaakkola–Jordan bound of σ(ψ)^weight, at the fixed point of ξ² = Σ_c w_c E_c[ψ²].

    Along the direction everything is one-dimensional: before the site ψ ~ N(a_c, v_c) per archetype; after it the
    precision is 1/v_c + ω and the linear term a_c/v_c + pull. Solved by Steffensen's method, in at most a dozen steps
    where plain ones take hundreds (a wide prior). Where it does not converge, the last ξ is taken, which is a bound like
    any other, and `rescues` counts it.

    Args:
        parts: ψ before the judgement.
        weight: Power of the likelihood.
        pull: weight·(P(the label is right) − ½).
    """
    xi = SMALLEST
    for w, a, v in parts:
        xi += w * (a * a + v)
    xi = math.sqrt(xi)
    for _ in range(MAX_ITERATIONS):
        first = _refined(parts, xi, weight, pull)
        second = _refined(parts, first, weight, pull)
        step = second - first
        bend = step - (first - xi)
        jump = step * step / bend if bend else 0.0
        xi = second - jump if second > jump else second
        if abs(step) <= TOLERANCE * max(1.0, xi):
            break
    else:
        residual = abs(step) / max(1.0, xi)
        rescues.add(TILT, residual=residual, tolerance=TOLERANCE, steps=MAX_ITERATIONS)
    return weight * bound_precision(xi)


def _refined(parts: Parts, xi: float, weight: float, pull: float) -> float:
    """√E[ψ²] under the posterior with a site of this ξ."""
    omega = weight * bound_precision(xi)
    second = SMALLEST
    for w, a, v in parts:
        shrink = 1 / (1 + omega * v)
        mean = shrink * (a + pull * v)
        second += w * (mean * mean + shrink * v)
    return math.sqrt(second)


def bound_precision(xi: float) -> float:
    """tanh(ξ/2)/(2ξ), ¼ at 0."""
    return 0.25 - xi * xi / 48 if xi < 1e-3 else math.tanh(xi / 2) / (2 * xi)


def sigmoid(x: float) -> float:
    """1/(1 + e⁻ˣ)."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def log(x: float) -> float:
    """Logarithm of a probability, −∞ at 0."""
    return math.log(x) if x > 0 else -math.inf
