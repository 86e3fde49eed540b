"""Measurements in this process: one posterior update, and the growth of scoring with candidates, users and k."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from benchmarks.serving.parts import Goal, Outcome
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.ranking.scores import scores
from penchant.models.taste.items import Items
from penchant.models.taste.observations import Pair
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.testing import tiny_bundle

K: Final = 16
LORE_SECONDS: Final = 0.03
"""Duration of LoRe's adaptation to a user: 500 steps, as measured on the reference machine."""

CANDIDATES: Final = (1, 4, 16, 64, 256, 1000)
USERS: Final = (1, 4, 16, 64, 256, 1000)
RANKS: Final = (2, 4, 8, 16, 32, 64)
_ROUNDS: Final = 5
_MICRO: Final = 1e6


def posterior(seconds: float) -> Outcome:
    """Measure learning one pair, for a user with twenty judgements and k = 16."""
    reward = _reward(K)
    one, *pairs = [_pair(reward, seed) for seed in range(21)]
    user = UserPosterior.at_prior(reward.population)
    for pair in pairs:
        user = user.learn(pair)
    # A copy has not computed its beliefs yet, like every state that learns.
    rounds = [_time(lambda: replace(user).learn(one), seconds / _ROUNDS) for _ in range(_ROUNDS)]
    took = statistics.median(rounds)
    stored = len(user.to_bytes())
    return Outcome(
        "posterior",
        [
            ["", "median", "all"],
            [
                "update, one pair, k = 16, µs",
                f"{took * _MICRO:.1f}",
                ", ".join(f"{one_ * _MICRO:.1f}" for one_ in rounds),
            ],
            ["LoRe's 30 ms ÷ it", f"{LORE_SECONDS / took:.0f}", ""],
            ["bytes of a stored state, k = 16", str(stored), ""],
        ],
        [
            Goal("update of a posterior, µs", took * _MICRO, 50.0, at_least=False),
            Goal("bytes a user at k = 16", float(stored), 1024.0, at_least=False),
        ],
        {"seconds": rounds, "state_bytes": stored},
    )


def growth(seconds: float) -> Outcome:
    """Time utilities and relevance by candidates (one user), users (16 candidates) and k (16 candidates, one user)."""
    each = seconds / (len(CANDIDATES) + len(USERS) + len(RANKS))
    at_k = {k: _reward(k) for k in {*RANKS, K}}
    curves: dict[str, list[tuple[int, float]]] = {
        "candidates": [(n, _scoring(at_k[K], 1, n, each)) for n in CANDIDATES],
        "users": [(n, _scoring(at_k[K], n, 16, each)) for n in USERS],
        "k": [(k, _scoring(at_k[k], 1, 16, each)) for k in RANKS],
    }
    table = [["", "number", "µs", "µs each"]]
    for name, points in curves.items():
        table += [[name, str(n), f"{t * _MICRO:.0f}", f"{t * _MICRO / n:.2f}"] for n, t in points]
    return Outcome("growth", table, [], {"curves": curves})


def _scoring(reward: RewardModel, users: int, candidates: int, seconds: float) -> float:
    items = _items(reward, candidates, 1)
    known = [UserPosterior.at_prior(reward.population).learn(_pair(reward, seed)) for seed in range(users)]
    return _time(lambda: scores(reward, known, items), seconds)


def _time(work: Callable[[], object], seconds: float) -> float:
    """Return the seconds of one call, as the median of at least three calls."""
    work()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _reward(k: int) -> RewardModel:
    return tiny_bundle(FeatureExtractor(HashingEncoder()), rank=k - 1).reward  # plus one direction for length


def _items(reward: RewardModel, n: int, seed: int) -> Items:
    rng = np.random.default_rng(seed)
    k = reward.population.q - 1
    keys: Sequence[Any] = [f"{seed}-{i}".encode() for i in range(n)]
    return Items(
        rng.normal(size=n),
        rng.uniform(0, 1, n),
        rng.normal(size=(n, k)),
        rng.uniform(0, 1, (n, k)),
        tuple(keys),
    )


def _pair(reward: RewardModel, seed: int) -> Pair:
    items = _items(reward, 2, seed)
    return Pair(items[0], items[1])
