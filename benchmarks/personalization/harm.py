"""Tests of harm: users who are measurably worse off with a model that knows their judgements than without.

Both tests use the same paired differences of log-loss, one user at a time, at p < .01:

- `harmed_users`: a permutation of the signs of the user's pairs, which treats the pairs as independent.
- `changed_users`: a t-test whose variance accounts for pairs that share texts (Aronow, Samii & Assenova 2015,
  *Cluster-robust variance estimation for dyadic data*, Political Analysis 23(4)).

If a user's test pairs are all pairs among a few texts, they are far from independent, because a surprise about one
text affects every pair with it. If two models differ only by such surprises of mean zero, the permutation calls one
user in ten (5 texts) to three in ten (20 texts) worse off, the t-test one to three in a hundred.
"""

import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Vector = NDArray[np.float64]

LEVEL: Final = 0.01
PERMUTATIONS: Final = 2000
SEED: Final = 20_261_121
_LEAST_TEXTS: Final = 3


def harmed_users(users: NDArray[np.int64], change: Vector) -> NDArray[np.bool_]:
    """Return for each user whether the log-loss is higher, by a sign-flip permutation of the paired differences.

    Args:
        users: `[n]` ascending index of each pair's user.
        change: `[n]` change of each pair's log-loss.
    """
    rng = np.random.default_rng(SEED)
    spans = list(_spans(users))
    width = max(end - start for start, end in spans)
    signs = rng.choice(np.array([-1.0, 1.0]), (PERMUTATIONS, width))
    harmed = []
    for start, end in spans:
        differences = change[start:end]
        observed = differences.sum()
        if observed <= 0:
            harmed.append(False)
            continue
        exceed = int((signs[:, : end - start] @ differences >= observed - 1e-12).sum())
        harmed.append((exceed + 1) / (PERMUTATIONS + 1) < LEVEL)
    return np.array(harmed)


def changed_users(
    users: NDArray[np.int64], texts: NDArray[np.int64], change: Vector
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each user whether the log-loss is higher and whether it is lower; pairs that share texts correlate.

    Args:
        users: `[n]` ascending index of each pair's user.
        texts: `[n, 2]` index of each pair's texts.
        change: `[n]` change of each pair's log-loss.

    Returns:
        `[n_users]` worse, `[n_users]` better. Both are False if the user's pairs have fewer than three texts.
    """
    found = np.array([_t_statistic(change[a:b], texts[a:b]) for a, b in _spans(users)])
    statistic, freedom = found[:, 0], np.maximum(found[:, 1], 1)
    return student.sf(statistic, freedom) < LEVEL, student.cdf(statistic, freedom) < LEVEL


def _spans(users: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    starts = np.searchsorted(users, np.arange(int(users.max()) + 2))
    return itertools.pairwise(starts.tolist())


def _t_statistic(change: Vector, texts: NDArray[np.int64]) -> tuple[float, int]:
    """Return the mean over its standard error, and the degrees of freedom: texts less the two of a pair."""
    _, places = np.unique(texts, return_inverse=True)
    places = places.reshape(-1, 2)
    g = int(places.max()) + 1
    if g < _LEAST_TEXTS:
        return 0.0, 0
    rest = change - change.mean()
    alone = float(rest @ rest)
    of_text = np.bincount(places[:, 0], rest, g) + np.bincount(places[:, 1], rest, g)
    # A pair is in the sums of both its texts. With few texts, the estimate may fall below that of independent pairs.
    variance = max(float(of_text @ of_text) - alone, alone) * g / (g - 1)
    if not variance:
        return float(np.sign(change.sum()) * np.inf) if change.any() else 0.0, g - 2
    return float(change.sum() / np.sqrt(variance)), g - 2
