"""Numerical tools of the user model: fixed points, and draws that are the same on every call."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from penchant.models.taste.sobol import scrambled_sobol

Vector = NDArray[np.float64]

WINDOW: Final = 5
MAX_STEPS: Final = 60


@dataclass(frozen=True)
class FixedPoint:
    """How far an iteration came.

    Attributes:
        x: `[n]` the solution, or what came closest to one.
        residual: The largest |f(x) − x| over the largest |x| or 1.
        steps: Evaluations of f.
        converged: Whether the residual is within the tolerance.
    """

    x: Vector
    residual: float
    steps: int
    converged: bool


def fixed_point(
    f: Callable[[Vector], Vector],
    start: Vector,
    *,
    tolerance: float,
    allowed: Callable[[Vector], bool] = lambda _: True,
    max_steps: int = MAX_STEPS,
) -> FixedPoint:
    """Solves x = f(x): Anderson (1965) type II, the last five residuals combined by least squares.

    Plain iteration swings around the fixed point where judgements surprise; this converges in a third of the steps, and
    where plain iteration does not converge at all.

    Args:
        f: `[n]` → `[n]`.
        start: `[n]`.
        tolerance: For the residual: the largest |f(x) − x| over the largest |x| or 1.
        allowed: An extrapolation that is not is replaced by half a plain step.
        max_steps: Evaluations of f at most.

    Returns:
        The solution; where `max_steps` were not enough, the allowed x that came closest, which says so.
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
        share = np.linalg.lstsq(changes.T, residual, rcond=1e-10)[0]
        mixed = x + residual - share @ (steps + changes)
        x = mixed if allowed(mixed) else x + 0.5 * residual
    return FixedPoint(closest, least, max_steps, converged=False)


@cache
def sobol_draws(width: int, count: int) -> NDArray[np.float64]:
    """`[count, width]` standard normal numbers, scrambled Sobol of a fixed seed.

    Cost: once per (width, count), then a look-up. The array must not be written to.
    """
    uniform = scrambled_sobol(width, count)
    draws: NDArray[np.float64] = ndtri(np.clip(uniform, 1e-9, 1 - 1e-9))
    draws.flags.writeable = False
    return draws


@cache
def normal_draws(width: int, count: int) -> NDArray[np.float64]:
    """`[count, width]` standard normal numbers in pairs of opposite sign, made of `sobol_draws`.

    Their mean is exactly 0 and, where count is at least 4·width, their covariance exactly the identity: linear and
    quadratic functions are integrated without error.

    Args:
        width: Dimensions.
        count: An even number.

    Cost: once per (width, count), then a look-up. The array must not be written to.
    """
    half = sobol_draws(width, count // 2)
    if count >= 4 * width:
        half = np.linalg.solve(np.linalg.cholesky(half.T @ half / len(half)), half.T).T
    draws: NDArray[np.float64] = np.concatenate([half, -half])
    draws.flags.writeable = False
    return draws
