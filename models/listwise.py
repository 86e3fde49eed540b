"""What a choice or ranking says of the utilities it compares: Plackett–Luce with ties, as one Gaussian site.

Best first, groups of tied items of sizes d_1 … d_G; the last group says nothing among itself (a choice among n is the
groups (1, n − 1)). Ties sum over the orders that would have shown them, in Efron's approximation (1977):

    log p(u) = Σ_ranked u_i − Σ_{g<G} Σ_{l<d_g} log( Σ_{j behind g} e^{u_j} + (1 − l/d_g) Σ_{j in g} e^{u_j} )

It is concave in u `[n]`. The site exp(−½δᵀΛδ + hᵀδ), δ = u − m₀, is the Gaussian variational one (Opper & Archambeau
2009, eq. 12–13): under the posterior N(m₀ + δ, S) that includes it, Λ = −E[∇²log p] and h = E[∇log p] + Λδ.
Only differences of utilities enter: Λ1 = 0 and h·1 = 0, so that nothing is said of a user's threshold.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.draws import normal_draws
from penchant.models.fixed_point import fixed_point

Vector = NDArray[np.float64]

TOLERANCE: Final = 1e-6
MAX_DRAWS: Final = 512
MIN_DRAWS: Final = 64
BUDGET: Final = 1 << 18
"""Exponentials per expectation: long lists get fewer draws."""


@dataclass(frozen=True)
class Stages:
    """A ranking as the softmax choices it is made of.

    Attributes:
        ranked: `[n]` 1 for items that were ranked, 0 for the last group.
        log_shares: `[S, n]` log coefficient of e^u in each stage's sum, −∞ for items that are already gone.
    """

    ranked: Vector
    log_shares: Vector

    @property
    def draws(self) -> int:
        """How many draws an expectation takes."""
        wanted = BUDGET // max(self.log_shares.size, 1)
        return max(MIN_DRAWS, min(MAX_DRAWS, 1 << wanted.bit_length() >> 1))


@cache
def stages(groups: tuple[int, ...]) -> Stages:
    """The stages of tie groups of these sizes, best first."""
    n, start, rows = sum(groups), 0, []
    for size in groups[:-1]:
        for tied in range(size):
            row = np.full(n, -np.inf)
            row[start:] = 0.0
            row[start : start + size] = np.log1p(-tied / size)
            rows.append(row)
        start += size
    ranked = (np.arange(n) < start).astype(np.float64)
    return Stages(ranked, np.array(rows).reshape(start, n))


def log_likelihood(groups: tuple[int, ...], utilities: Vector) -> Vector:
    """Log p of the stated order, `[draws]`.

    Args:
        groups: Sizes of the groups of tied items, best first.
        utilities: `[draws, n]`, best first.
    """
    return _choices(stages(groups), utilities)[0]


def uniform_log_likelihood(groups: tuple[int, ...]) -> float:
    """Log p of the stated order where all utilities are equal: what an answer at random has."""
    return float(log_likelihood(groups, np.zeros((1, sum(groups))))[0])


def _choices(parts: Stages, utilities: Vector) -> tuple[Vector, Vector]:
    """Log-likelihood `[draws]` and the probability of every item in every stage, `[draws, S, n]`."""
    shifted = utilities - utilities.max(axis=1, keepdims=True)
    logits = shifted[:, None, :] + parts.log_shares
    # Each stage has a largest of its own: what stands behind may be smaller than the best by more than e^700.
    top = logits.max(axis=2, keepdims=True)
    powers = np.exp(logits - top)
    sums = powers.sum(axis=2, keepdims=True)
    total: Vector = shifted @ parts.ranked - (top + np.log(sums)).sum(axis=(1, 2))
    return total, powers / sums


def log_probability(groups: tuple[int, ...], mean: Vector, covariance: Vector) -> float:
    """Log E[p(u)] under u ~ N(mean `[n]`, covariance `[n, n]`), with draws. Cost: as one step of `gaussian_site`."""
    parts = stages(groups)
    logs, _ = _choices(parts, mean + normal_draws(len(mean), parts.draws) @ _root(covariance).T)
    return float(np.logaddexp.reduce(logs) - np.log(len(logs)))


def gaussian_site(
    groups: tuple[int, ...], mean: Vector, covariance: Vector, power: float = 1.0
) -> tuple[Vector, Vector]:
    """Λ `[n, n]` and h `[n]` in δ = u − mean: what the order says of the utilities.

    Args:
        groups: Sizes of the groups of tied items, best first.
        mean: `[n]` m₀, best first, before the judgement.
        covariance: `[n, n]`, may be singular.
        power: Of the likelihood.

    Cost: 5 to 30 steps of O(draws · S n + S n² draws); 1 ms for a choice among five, 3 ms for a ranking of ten.
    """
    parts, n = stages(groups), len(mean)
    draws = normal_draws(n, parts.draws)

    def refined(site: Vector) -> Vector:
        shift, spread = _after(covariance, site[n:].reshape(n, n), site[:n])
        curvature, gradient = _expectations(parts, mean + shift, spread, draws)
        return np.concatenate([gradient + curvature @ shift, curvature.ravel()]) * power

    def semidefinite(site: Vector) -> bool:
        return bool(np.linalg.eigvalsh(site[n:].reshape(n, n))[0] > -1e-9)

    found, _ = fixed_point(refined, np.zeros(n + n * n), tolerance=TOLERANCE, allowed=semidefinite)
    return found[n:].reshape(n, n), found[:n]


def expected_site(
    groups: tuple[int, ...], mean: Vector, covariance: Vector, power: float = 1.0
) -> tuple[Vector, Vector]:
    """One step of `gaussian_site` where the posterior with this site in it is known: Λ and η, in u itself.

    Args:
        groups: Sizes of the groups of tied items, best first.
        mean: `[n]` of the posterior.
        covariance: `[n, n]` of the posterior.
        power: Of the likelihood.
    """
    parts = stages(groups)
    curvature, gradient = _expectations(parts, mean, covariance, normal_draws(len(mean), parts.draws))
    return power * curvature, power * (gradient + curvature @ mean)


def without_residuals(precision: Vector, linear: Vector, residual: Vector) -> tuple[Vector, Vector]:
    """The site on what remains when noise e ~ N(0, residual `[n, n]`) is integrated out of δ = rest + e."""
    damping = np.linalg.inv(np.eye(len(linear)) + precision @ residual)
    damped = damping @ precision
    return 0.5 * (damped + damped.T), damping @ linear


def _expectations(parts: Stages, mean: Vector, covariance: Vector, draws: Vector) -> tuple[Vector, Vector]:
    """−E[∇²log p] and E[∇log p] under N(mean, covariance)."""
    _, chances = _choices(parts, mean + draws @ _root(covariance).T)
    flat = chances.reshape(-1, len(mean))
    expected = flat.sum(axis=0) / len(draws)
    curvature = np.diag(expected) - flat.T @ flat / len(draws)
    return curvature, parts.ranked - expected


def _after(covariance: Vector, precision: Vector, linear: Vector) -> tuple[Vector, Vector]:
    """Mean and covariance of δ ~ N(0, covariance) after a site; a singular covariance is fine."""
    spread = covariance @ np.linalg.inv(np.eye(len(linear)) + precision @ covariance)
    spread = 0.5 * (spread + spread.T)
    return spread @ linear, spread


def _root(covariance: Vector) -> Vector:
    """Lower triangular root, with a jitter for equal texts, whose utilities are one number."""
    diagonal = np.diagonal(covariance)
    return np.linalg.cholesky(covariance + np.diag(1e-10 * diagonal + 1e-14)).astype(np.float64, copy=False)
