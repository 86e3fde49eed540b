"""One number ψ that a judgement is about: ψ = base + direction·y + e, and what logistic evidence makes of it."""

import math
from typing import Final

import numpy as np

from penchant.models.items import Items
from penchant.models.population import Beliefs

MAX_ITERATIONS: Final = 64
TOLERANCE: Final = 1e-5
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
        elif (
            item.keys[0] == against.keys[0]
        ):  # one text against itself: residuals cancel, and nothing is said
            direction[:] = 0.0
            self.base, self.base_variance, self.direction_variance = 0.0, 0.0, direction[1:]
        else:
            direction[0], direction[1:] = 0.0, item.directions[0] - against.directions[0]
            self.base = item.base.item() - against.base.item()
            self.base_variance = item.base_variance.item() + against.base_variance.item()
            self.direction_variance = item.direction_variance[0] + against.direction_variance[0]
        self.direction = direction


class Margin:
    """ψ of a contrast for a user of whom this is believed.

    Per archetype ψ ~ N(centre, spread), e included; scalars per archetype, for plain floats are several times faster
    here than arrays of length K.

    Attributes:
        residual: Variance of e for this user, τ_b² + Σ_d τ_d² E[z_d²].
        along: `beliefs.along` the direction.
        parts: (weight, centre, spread) of each archetype.
    """

    __slots__ = ("along", "parts", "residual")

    def __init__(self, contrast: Contrast, beliefs: Beliefs) -> None:
        base = contrast.base
        squares = beliefs.expected_squares[1:]
        self.residual = residual = contrast.base_variance + float(contrast.direction_variance.dot(squares))
        self.along = beliefs.along(contrast.direction)
        self.parts: list[tuple[float, float, float]] = [
            (weight, base + centre, residual + spread)
            for weight, (centre, spread, _) in zip(beliefs.weights.tolist(), self.along, strict=True)
        ]

    def chance(self) -> float:
        """E[σ(ψ)] ≈ Σ_c w_c σ(centre_c/√(1 + π spread_c/8)) (MacKay 1992, eq. 10)."""
        chance = 0.0
        for w, a, v in self.parts:
            chance += w * sigmoid(a / math.sqrt(1 + math.pi / 8 * v))
        return chance

    def log_density(self, value: float, offset: float, slope: float, noise: float) -> float:
        """Log density of offset + slope·ψ + N(0, noise²) at a value."""
        logs = []
        for w, a, v in self.parts:
            variance = slope * slope * v + noise * noise
            miss = value - offset - slope * a
            logs.append(log(w) - 0.5 * (miss * miss / variance + math.log(2 * math.pi * variance)))
        top = max(logs)
        return top + math.log(sum(math.exp(one - top) for one in logs))

    def tilt(self, weight: float, pull: float) -> float:
        """ω of the Jaakkola–Jordan bound of σ(ψ)^weight, at the fixed point of ξ² = Σ_c w_c E_c[ψ²].

        Along the direction everything is one-dimensional: before the site ψ ~ N(a_c, v_c) per archetype; after it the
        precision is 1/v_c + ω and the linear term a_c/v_c + pull. Solved by Steffensen's method, in at most a dozen
        steps where plain ones take hundreds (a wide prior).
        """
        xi = math.sqrt(max(sum(w * (a * a + v) for w, a, v in self.parts), SMALLEST))
        for _ in range(MAX_ITERATIONS):
            first = self._refined(xi, weight, pull)
            second = self._refined(first, weight, pull)
            step = second - first
            bend = step - (first - xi)
            jump = step * step / bend if bend else 0.0
            xi = second - jump if second > jump else second
            if abs(step) <= TOLERANCE * max(1.0, xi):
                break
        return weight * bound_precision(xi)

    def _refined(self, xi: float, weight: float, pull: float) -> float:
        """√E[ψ²] under the posterior with a site of this ξ."""
        omega = weight * bound_precision(xi)
        second = SMALLEST
        for w, a, v in self.parts:
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
