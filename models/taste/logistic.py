"""The logistic likelihood σ(ψ): its expectation over a mixture of Gaussians, and the Jaakkola–Jordan bound.

The bound (Jaakkola & Jordan 2000, eq. 13; equal to the Pólya–Gamma mean of Polson et al. 2013) replaces σ(ψ) by a
Gaussian of precision ω = tanh(ξ/2)/(2ξ). It is tightest at ξ² = E[ψ²], the expectation being taken under the posterior
that includes this Gaussian: a fixed point. Before the judgement ψ ~ N(a_c, v_c) under each mixture component; after it
the precision is 1/v_c + ω and the linear term a_c/v_c + linear. Steffensen's method solves this in at most a dozen
steps; plain iteration needs hundreds if the prior is wide. If it does not converge, the last ξ is used, which is still
a valid bound, and `convergence_failures` counts it.

Functions on one judgement take plain floats: for a few components, numpy's overhead makes the bound more than 20 times
slower. Functions named `…_array` take one judgement per row.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.taste.fixed_points import convergence_failures
from penchant.models.taste.population import Mixture

Vector = NDArray[np.float64]

MODERATION: Final = np.pi / 8
"""σ(ψ) averaged over N(a, v) is about σ(a/√(1 + πv/8)) (MacKay 1992, eq. 10)."""

MAX_ITERATIONS: Final = 64

TOLERANCE: Final = 1e-4
"""Largest step, relative to ξ, before acceleration. The remaining error is of the order of its square."""

ARRAY_TOLERANCE: Final = 1e-6
"""`TOLERANCE` for arrays: smaller, because the number of steps, and with it the error, depends on the other rows."""

MIN_SQUARED_XI: Final = 1e-12

BOUND_NAME: Final = "bound of a pair or vote"
"""Name of the fixed point in `convergence_failures`."""


# ---------------------------------------------------------------- one judgement, plain floats


def sigmoid(x: float) -> float:
    """Return 1/(1 + e⁻ˣ)."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def safe_log(x: float) -> float:
    """Return the logarithm of a probability, −∞ at 0."""
    return math.log(x) if x > 0 else -math.inf


def expected_sigmoid(mixture: Mixture) -> float:
    """Return E[σ(ψ)], approximately, by `MODERATION`."""
    total = 0.0
    for w, a, v in mixture:
        total += w * sigmoid(a / math.sqrt(1 + math.pi / 8 * v))
    return total


def bound_precision(xi: float) -> float:
    """Return ω = tanh(ξ/2)/(2ξ), which is ¼ at 0."""
    return 0.25 - xi * xi / 48 if xi < 1e-3 else math.tanh(xi / 2) / (2 * xi)


def optimal_precision(mixture: Mixture, weight: float, linear: float) -> float:
    """Return the precision, weight·ω, of the tightest bound of σ(ψ)^weight.

    Args:
        mixture: ψ before the judgement.
        weight: Power of the likelihood.
        linear: Linear term of the bound, weight·(P(the label is correct) − ½).
    """
    second_moment = MIN_SQUARED_XI
    for w, a, v in mixture:
        second_moment += w * (a * a + v)
    xi = math.sqrt(second_moment)
    for _ in range(MAX_ITERATIONS):
        first = _next_xi(mixture, xi, weight, linear)
        second = _next_xi(mixture, first, weight, linear)
        step = second - first
        curvature = step - (first - xi)
        correction = step * step / curvature if curvature else 0.0
        xi = second - correction if second > correction else second
        if abs(step) <= TOLERANCE * max(1.0, xi):
            break
    else:
        residual = abs(step) / max(1.0, xi)
        convergence_failures.add(BOUND_NAME, residual=residual, tolerance=TOLERANCE, steps=MAX_ITERATIONS)
    return weight * bound_precision(xi)


def _next_xi(mixture: Mixture, xi: float, weight: float, linear: float) -> float:
    """√E[ψ²] under the posterior that includes the bound at ξ."""
    omega = weight * bound_precision(xi)
    second_moment = MIN_SQUARED_XI
    for w, a, v in mixture:
        shrinkage = 1 / (1 + omega * v)
        mean = shrinkage * (a + linear * v)
        second_moment += w * (mean * mean + shrinkage * v)
    return math.sqrt(second_moment)


# ---------------------------------------------------------------- many judgements, arrays


def moderated_logits(means: Vector, variances: Vector) -> Vector:
    """Return a/√(1 + πv/8), elementwise: the logit of E[σ(ψ)] for ψ ~ N(a, v), approximately."""
    logits: Vector = means / np.sqrt(1 + MODERATION * variances)
    return logits


def expected_sigmoid_array(weights: Vector, means: Vector, variances: Vector) -> Vector:
    """Return E[σ(ψ)] `[u]`, approximately, for mixtures of K components; all arguments are `[u, K]`."""
    expectation: Vector = (weights * expit(moderated_logits(means, variances))).sum(axis=1)
    return expectation


def bound_precision_array(xi: Vector) -> Vector:
    """Return ω = tanh(ξ/2)/(2ξ), which is ¼ at 0, elementwise."""
    safe = np.maximum(xi, 1e-3)
    omega: Vector = np.where(xi < 1e-3, 0.25 - xi * xi / 48, np.tanh(safe / 2) / (2 * safe))
    return omega


def optimal_precision_array(
    weights: Vector, means: Vector, variances: Vector, weight: Vector, linear: Vector
) -> Vector:
    """Return the precisions, weight·ω `[u]`, of the tightest bounds of σ(ψ)^weight.

    Args:
        weights: `[u, K]` component weights of ψ before the judgement.
        means: `[u, K]` component means.
        variances: `[u, K]` component variances.
        weight: `[u]` power of the likelihood.
        linear: `[u]` linear term of the bound, weight·(P(the label is correct) − ½).
    """
    xi: Vector = np.sqrt(np.maximum((weights * (means**2 + variances)).sum(axis=1), MIN_SQUARED_XI))

    def next_xi(xi: Vector) -> Vector:
        shrinkage = 1 / (1 + (weight * bound_precision_array(xi))[:, None] * variances)
        mean = shrinkage * (means + linear[:, None] * variances)
        second_moment = (weights * (mean * mean + shrinkage * variances)).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(second_moment, MIN_SQUARED_XI)))

    for _ in range(MAX_ITERATIONS):
        first = next_xi(xi)
        second = next_xi(first)
        step = second - first
        curvature = step - (first - xi)
        correction = np.divide(step * step, curvature, out=np.zeros_like(curvature), where=curvature != 0)
        xi = np.where(second > correction, second - correction, second)
        unsolved = np.abs(step) > ARRAY_TOLERANCE * np.maximum(1.0, xi)
        if not unsolved.any():
            break
    else:
        convergence_failures.add(
            BOUND_NAME,
            residual=float((np.abs(step) / np.maximum(1.0, xi)).max()),
            tolerance=ARRAY_TOLERANCE,
            steps=MAX_ITERATIONS,
            number=int(unsolved.sum()),
        )
    return weight * bound_precision_array(xi)
