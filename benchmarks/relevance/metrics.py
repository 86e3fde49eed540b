"""nDCG, reciprocal rank, their expected values over random orders, and bootstrap intervals over questions."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

CUTOFF: Final = 10
DRAWS: Final = 2000
SEED: Final = 11


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval.

    Attributes:
        value: The figure.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ndcg(relevance: ArrayLike, order: ArrayLike, cutoff: int = CUTOFF) -> float:
    """Return the nDCG of an order, with gain 2^relevance − 1 and discount log₂(rank + 1) (Burges et al. 2005).

    Args:
        relevance: `[n]` relevance, at least one of them above 0.
        order: `[n]` indices, best first.
        cutoff: Number of ranks that count.
    """
    gains = _gains(relevance)
    discounts = _discounts(len(gains), cutoff)
    found = gains[np.asarray(order)[: len(discounts)]] @ discounts
    return float(found / _ideal(gains, discounts))


def expected_ndcg(relevance: ArrayLike, cutoff: int = CUTOFF) -> float:
    """Return the expected nDCG of a random order. It is exact: each rank has the mean gain."""
    gains = _gains(relevance)
    discounts = _discounts(len(gains), cutoff)
    return float(gains.mean() * discounts.sum() / _ideal(gains, discounts))


def reciprocal_rank(relevance: ArrayLike, order: ArrayLike) -> float:
    """Return 1 / rank of the first candidate with a relevance above 0, of which there must be one."""
    hits = np.asarray(relevance)[np.asarray(order)] > 0
    return 1.0 / (int(hits.argmax()) + 1)


def expected_reciprocal_rank(relevance: ArrayLike) -> float:
    """Return the expected reciprocal rank of a random order. It is exact: m relevant of n are at random places."""
    n, m = len(np.asarray(relevance)), int((np.asarray(relevance) > 0).sum())
    ways = math.comb(n, m)
    return sum(math.comb(n - rank, m - 1) / ways / rank for rank in range(1, n - m + 2))


def mean(values: ArrayLike) -> Figure:
    """Return the mean over questions, with a bootstrap interval. Values that are NaN are left out."""
    found = np.asarray(values, np.float64)
    found = found[~np.isnan(found)]
    return _figure(float(found.mean()), found[_draws(len(found))].mean(axis=1))


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Figure:
    """Return the ratio of two means over the same questions, with a bootstrap interval.

    Draws whose denominator is 0 are left out of the interval. All three numbers are NaN if every denominator is 0.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not bottom.any():
        return Figure(math.nan, math.nan, math.nan)
    rows = _draws(len(top))
    above, below = top[rows].mean(axis=1), bottom[rows].mean(axis=1)
    return _figure(float(top.mean() / bottom.mean()), above[below > 0] / below[below > 0])


def median_ratio(numerators: ArrayLike, denominators: ArrayLike) -> Figure:
    """Return the median of the ratios of paired values, with a bootstrap interval."""
    found = np.asarray(numerators, np.float64) / np.asarray(denominators, np.float64)
    return _figure(float(np.median(found)), np.median(found[_draws(len(found))], axis=1))


def mean_by_cluster(values: ArrayLike, clusters: ArrayLike) -> Figure:
    """Return the mean of values, with a bootstrap interval over clusters of values that depend on each other."""
    found = np.asarray(values, np.float64)
    _, number = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(number, found), np.bincount(number)
    rows = _draws(len(sums))
    return _figure(float(found.mean()), sums[rows].sum(axis=1) / sizes[rows].sum(axis=1))


def _figure(value: float, draws: Vector) -> Figure:
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return Figure(value, low, high)


def _draws(n: int) -> NDArray[np.int64]:
    """Return `[DRAWS, n]` seeded draws of n questions, the same for all figures of n questions."""
    return np.random.default_rng(SEED).integers(0, n, (DRAWS, n))


def _gains(relevance: ArrayLike) -> Vector:
    return np.asarray(2.0 ** np.asarray(relevance, np.float64) - 1.0)


def _discounts(n: int, cutoff: int) -> Vector:
    return np.asarray(1.0 / np.log2(np.arange(2, min(n, cutoff) + 2)))


def _ideal(gains: Vector, discounts: Vector) -> float:
    return float(np.sort(gains)[::-1][: len(discounts)] @ discounts)
