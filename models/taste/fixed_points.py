"""Fixed points by bounded iteration, and a count of the iterations that did not converge.

Every iteration of the user model is bounded. If it reaches its bound, the best approximation so far is used: a valid
Gaussian site, but not exactly the one that the formula defines. No error is raised, because an acknowledged event must
be learned. This is rare: among random choices and rankings it occurs only with priors ten times as wide as a fitted
one.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

WINDOW: Final = 5
MAX_STEPS: Final = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FixedPoint:
    """Result of `find_fixed_point`.

    Attributes:
        x: `[n]` the solution, or the closest approximation if the iteration did not converge.
        residual: The largest |f(x) − x| divided by the largest |x| or 1.
        steps: Number of evaluations of f.
        converged: Whether the residual is within the tolerance.
    """

    x: Vector
    residual: float
    steps: int
    converged: bool


def find_fixed_point(
    f: Callable[[Vector], Vector],
    start: Vector,
    *,
    tolerance: float,
    is_allowed: Callable[[Vector], bool] = lambda _: True,
    max_steps: int = MAX_STEPS,
) -> FixedPoint:
    """Solve x = f(x) by Anderson acceleration (1965, type II): the last five residuals are combined by least squares.

    Plain iteration oscillates around the fixed point if a judgement is unexpected. Anderson acceleration takes a third
    of the steps, and converges where plain iteration diverges.

    Args:
        f: Maps `[n]` to `[n]`.
        start: `[n]`.
        tolerance: Bound on the residual: the largest |f(x) − x| divided by the largest |x| or 1.
        is_allowed: Whether an extrapolation is valid. An invalid one is replaced by half a plain step.
        max_steps: Maximum number of evaluations of f.

    Returns:
        The solution, or the valid x with the smallest residual, marked as not converged.
    """
    x, closest, least = start, start, np.inf
    xs: list[Vector] = []
    residuals: list[Vector] = []
    for step in range(1, max_steps + 1):
        residual = f(x) - x
        error = float(np.abs(residual).max(initial=0.0)) / max(1.0, float(np.abs(x).max(initial=0.0)))
        if error < least:
            closest, least = x, error
        if error <= tolerance:
            return FixedPoint(x, error, step, converged=True)
        xs, residuals = [*xs[-WINDOW:], x], [*residuals[-WINDOW:], residual]
        if len(xs) == 1:
            x = x + residual
            continue
        steps, changes = np.diff(xs, axis=0), np.diff(residuals, axis=0)
        coefficients = np.linalg.lstsq(changes.T, residual, rcond=1e-10)[0]
        extrapolated = x + residual - coefficients @ (steps + changes)
        x = extrapolated if is_allowed(extrapolated) else x + 0.5 * residual
    return FixedPoint(closest, least, max_steps, converged=False)


class ConvergenceFailures:
    """Number of iterations that did not converge, by computation. Thread-safe."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(
        self, computation: str, *, residual: float, tolerance: float, steps: int, number: int = 1
    ) -> None:
        """Count failures. Log the first, second, fourth and so on, because a replay may have thousands.

        Args:
            computation: Name of the computation, one of a fixed set.
            residual: Residual of the best approximation, in the measure of the tolerance.
            tolerance: Residual that counts as converged.
            steps: Number of steps after which the iteration stopped.
            number: Number of failures to count.
        """
        with self._lock:
            before = self._counts[computation]
            after = self._counts[computation] = before + number
        if before.bit_length() < after.bit_length():
            _log.warning(
                "the %s did not converge: the residual is %.2g after %d steps, the tolerance %.2g; the best "
                "approximation is used (%d so far)",
                computation,
                residual,
                steps,
                tolerance,
                after,
            )

    def counts(self) -> dict[str, int]:
        """Return the number of failures by computation."""
        with self._lock:
            return dict(self._counts)


convergence_failures: Final = ConvergenceFailures()
"""The counter of this process."""
