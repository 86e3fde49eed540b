"""The measurement of one size: read the judgements, index them, fit, and check that the planted tastes are recovered.

`python -m benchmarks.scale.measure SPEC` prints one JSON object.
"""

import json
import resource
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from benchmarks.scale.planted import CONTEXT, World, text_name, user_name
from penchant.models.evaluation.few_shot import adapt, predict
from penchant.models.evaluation.split import TestPair
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.judgements.files import load
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.reward import RewardModel

CHECKED_USERS: Final = 400
CHECKED_PAIRS: Final = 20
"""Comparisons per user, on judged texts and again on new texts."""


@dataclass(frozen=True)
class Spec:
    """A size to measure.

    Attributes:
        path: File of judgements, written by `planted.write`.
        judgements: Number of judgements.
        users: Number of users who judged.
        texts: Number of judged texts.
        new_texts: Number of further texts that nobody judged.
        rank: Number of directions of taste, planted and fitted.
        dim: Width of a feature vector.
        seed: Seed of the world, the judgements and the fit.
        threads: Number of threads that torch may use.
    """

    path: str
    judgements: int
    users: int
    texts: int
    new_texts: int
    rank: int
    dim: int
    seed: int
    threads: int

    def world(self) -> World:
        """Return the world that was planted."""
        return World.of(self.users, self.texts + self.new_texts, rank=self.rank, dim=self.dim, seed=self.seed)


def measure(spec: Spec) -> dict[str, Any]:
    """Return the figures of one size. Memory is the peak of the whole process, so the process must be a fresh one."""
    torch.set_num_threads(spec.threads)
    world = spec.world()
    vectors = {(CONTEXT, text_name(i)): row for i, row in enumerate(world.vectors)}
    clock = _Clock()
    before = _peak_bytes()
    judgements = load([spec.path])
    clock.lap("read")
    data = Dataset.from_judgements(judgements, vectors)
    clock.lap("index")
    indexed = _peak_bytes()
    rounds = _Rounds()
    fit = Fit(data, FitOptions(rank=spec.rank, seed=spec.seed)).run(rounds)
    clock.lap("fit")
    reward = fit.build_reward_model()
    clock.lap("reward")
    return {
        **{name: value for name, value in asdict(spec).items() if name != "path"},
        "seconds": clock.seconds,
        "rounds": rounds.count,
        "seconds_a_round": rounds.median,
        "peak_bytes": {"before": before, "indexed": indexed, "fitted": _peak_bytes()},
        "recovery": recovery(reward, world, judgements, vectors, spec),
    }


class _Clock:
    """A stopwatch of seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


class _Rounds:
    """A timer of the rounds of a fit, driven by its progress reports."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        self._times[stage].append(time.perf_counter())

    @property
    def count(self) -> int:
        return sum(map(len, self._times.values()))

    @property
    def median(self) -> float:
        """Median seconds of a round in the longest stage, in which all directions are fitted together."""
        return float(np.median(np.diff(max(self._times.values(), key=len))))


def recovery(
    reward: RewardModel,
    world: World,
    judgements: list[Judgement],
    vectors: dict[tuple[str, str], NDArray[np.float16]],
    spec: Spec,
) -> dict[str, Any]:
    """Return how well the next comparisons of some users are predicted, on judged and on new texts, beside the truth."""
    users = range(min(CHECKED_USERS, spec.users))
    names = {user_name(i) for i in users}
    support: dict[str, list[Judgement]] = {user_name(i): [] for i in users}
    for judgement in judgements:
        if judgement.user in names:
            support[judgement.user].append(judgement)
    found = {}
    for where, texts, salt in (
        ("judged", slice(0, spec.texts), 1),
        ("new", slice(spec.texts, spec.texts + spec.new_texts), 2),
    ):
        # The world's users judge in turn, so the users checked are the first of every turn.
        some = World(world.vectors, world.base, world.directions, world.users[: len(users)])
        user, pairs = some.compared(len(users) * CHECKED_PAIRS, texts=texts, seed=spec.seed + salt)
        test: dict[str, list[TestPair]] = {user_name(i): [] for i in users}
        for i, (winner, loser) in zip(user.tolist(), pairs.tolist(), strict=True):
            test[user_name(i)].append(TestPair(CONTEXT, text_name(winner), text_name(loser)))
        most = max(map(len, support.values()))
        predicted = predict(reward, adapt(reward, vectors, support, test, shots=(0, most)))
        truth = expit(some.difference(user, pairs[:, 0], pairs[:, 1]))
        found[where] = {
            "consensus": _quality(predicted.better[0]),
            "personal": _quality(predicted.better[most]),
            "truth": _quality(truth),
        }
    return {"users": len(users), "pairs": len(users) * CHECKED_PAIRS, **found}


def _quality(better: NDArray[np.float64]) -> dict[str, float]:
    return {
        "accuracy": float((better > 0.5).mean()),
        "log_loss": float(-np.log(np.maximum(better, 1e-12)).mean()),
    }


def _peak_bytes() -> int:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(measure(Spec(**json.loads(sys.argv[1])))))
