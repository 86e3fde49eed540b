"""What a choice or ranking says of the utilities it compares: Plackett–Luce with ties, as one Gaussian site.

Best first, groups of tied items of sizes d_1 … d_G; the last group says nothing among itself (a choice among n is the
groups (1, n − 1)). Ties sum over the orders that would have shown them, in Efron's approximation (1977):

    log p(u) = Σ_ranked u_i − Σ_{g<G} Σ_{l<d_g} log( Σ_{j behind g} e^{u_j} + (1 − l/d_g) Σ_{j in g} e^{u_j} )

It is concave in u `[n]`. The site exp(−½uᵀΛu + ηᵀu) is the Gaussian variational one (Opper & Archambeau 2009,
eq. 12–13): under the posterior that includes it, of mean m, Λ = −E[∇²log p] and η = E[∇log p] + Λm; the posterior of a
mixture has its moments. Only differences of utilities enter: Λ1 = 0 and η·1 = 0, so that nothing is said of a user's
threshold.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.taste.numerics import fixed_point, normal_draws
from penchant.models.taste.population import Beliefs
from penchant.models.taste.rescues import rescues

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


def log_probability(groups: tuple[int, ...], beliefs: Beliefs) -> float:
    """Log E[p(u)] over a mixture of Gaussians of the utilities, with draws. Cost: K steps of `gaussian_site`."""
    parts = stages(groups)
    draws = normal_draws(beliefs.means.shape[1], parts.draws)
    found = []
    for weight, mean, covariance in zip(beliefs.weights, beliefs.means, beliefs.covariances, strict=True):
        if weight > 0:
            logs, _ = _choices(parts, mean + draws @ _root(covariance).T)
            found.append(np.log(weight / len(logs)) + np.logaddexp.reduce(logs))
    return float(np.logaddexp.reduce(found))


def gaussian_site(groups: tuple[int, ...], before: Beliefs, power: float = 1.0) -> tuple[Vector, Vector]:
    """Λ `[n, n]` and η `[n]`: what the order says of the utilities.

    Args:
        groups: Sizes of the groups of tied items, best first.
        before: Of the n utilities, best first, before the judgement; covariances may be singular.
        power: Of the likelihood.

    Where the iteration does not converge, the closest site that it met is taken, and `rescues` counts it.

    Cost: 5 to 30 steps of O(draws · S n + S n² draws + K n³); 2 ms for a choice among five, 10 ms for a ranking of ten.
    """
    n = before.means.shape[1]
    all_of_them = np.eye(n)

    def refined(site: Vector) -> Vector:
        after = before.after(all_of_them, site[n:].reshape(n, n), site[:n])
        curvature, linear = expected_site(groups, after.mean, after.covariance, power)
        return np.concatenate([linear, curvature.ravel()])

    def semidefinite(site: Vector) -> bool:
        return bool(np.linalg.eigvalsh(site[n:].reshape(n, n))[0] > -1e-9)

    found = fixed_point(refined, np.zeros(n + n * n), tolerance=TOLERANCE, allowed=semidefinite)
    if not found.converged:
        rescues.add(
            "site of a choice or ranking", residual=found.residual, tolerance=TOLERANCE, steps=found.steps
        )
    return found.x[n:].reshape(n, n), found.x[:n]


def expected_site(
    groups: tuple[int, ...], mean: Vector, covariance: Vector, power: float = 1.0
) -> tuple[Vector, Vector]:
    """Λ and η where the posterior with this site in it is known: one step of `gaussian_site`.

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
    """The site on what remains when noise e ~ N(0, residual `[n, n]`) is integrated out of u = rest + e."""
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


def _root(covariance: Vector) -> Vector:
    """Lower triangular root, with a jitter for equal texts, whose utilities are one number."""
    diagonal = np.diagonal(covariance)
    return np.linalg.cholesky(covariance + np.diag(1e-10 * diagonal + 1e-14)).astype(np.float64, copy=False)
