"""Figures with intervals: user-mean accuracy, log-loss, calibration, harm, and paired differences.

A figure is the mean over repetitions. Its 95 % interval is a two-way bootstrap: every user and every text is drawn a
Poisson(1) number of times, and a pair counts as often as its user and both its texts (Owen & Eckles 2012,
*Bootstrapping data arrays of arbitrary order*, Ann. Appl. Stat. 6(3)). A user or text that occurs in several
repetitions is drawn the same number of times in each, so that data shared by repetitions does not count as independent
evidence. All systems see the same draws, so differences are paired.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.personalization.harm import changed_users, harmed_users
from benchmarks.personalization.task import Asked
from penchant.models.evaluation.report import BINS, calibration_error

Vector = NDArray[np.float64]

DRAWS: Final = 500
SEED: Final = 20_261_121
CALIBRATION_DRAWS: Final = 100


@dataclass(frozen=True)
class Figure:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Statistic:
    """A figure of every repetition, and its value in every draw.

    Attributes:
        values: `[repetitions]`.
        draws: `[repetitions, DRAWS]`; NaN if a draw holds nothing.
    """

    values: Vector
    draws: Vector

    def figure(self) -> Figure:
        """Return the mean over repetitions, with its interval."""
        draws = self.draws.mean(axis=0)
        low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
        return Figure(float(self.values.mean()), float(low), float(high))

    def only(self, row: int) -> "Statistic":
        """Return a single row."""
        return Statistic(self.values[row : row + 1], self.draws[row : row + 1])

    def __sub__(self, other: "Statistic") -> "Statistic":
        """Return the paired difference."""
        return Statistic(self.values - other.values, self.draws - other.draws)


class Repetition:
    """The test pairs of one repetition, and how often each draw counts them.

    Args:
        asked: The pairs.
        text_draws: `[DRAWS, n_texts]`.
        user_draws: `[DRAWS, n_users]`.
    """

    def __init__(
        self, asked: Asked, text_draws: NDArray[np.float32], user_draws: NDArray[np.float32]
    ) -> None:
        self.asked = asked
        self._starts = np.searchsorted(asked.users, np.arange(len(asked.user_ids) + 1))
        self._texts = text_draws[:, asked.texts[:, 0]] * text_draws[:, asked.texts[:, 1]]
        self._users = user_draws

    def user_means(self, values: Vector, among: NDArray[np.bool_] | None = None) -> tuple[Vector, Vector]:
        """Return the mean over users of their mean over pairs, for m quantities: `[m]`, and `[m, DRAWS]` for the draws.

        Args:
            values: `[n_pairs, m]`.
            among: `[n_pairs]` pairs that count. All pairs if None.
        """
        counted = np.ones(len(values), np.float32) if among is None else among.astype(np.float32)
        plain, drawn = [], []
        for user, (start, end) in enumerate(itertools.pairwise(self._starts)):
            one, mass = values[start:end], counted[start:end]
            if not mass.sum():
                continue
            plain.append(mass @ one / mass.sum())
            weights = self._texts[:, start:end] * mass
            total = weights.sum(axis=1, keepdims=True)
            mean = (weights @ one.astype(np.float32)) / np.maximum(total, 1)
            drawn.append((mean, self._users[:, user : user + 1] * (total > 0)))
        numerator = sum(mean * present for mean, present in drawn)
        denominator = sum(present for _, present in drawn)
        return np.mean(plain, axis=0), _ratio(np.asarray(numerator), np.asarray(denominator)).T

    def pooled(self, values: Vector) -> tuple[Vector, Vector]:
        """Return the mean over pairs for m quantities: `[m]`, and `[m, DRAWS]` for the draws."""
        weights = self._texts * self._users[:, self.asked.users]
        total = weights.sum(axis=1, keepdims=True, dtype=np.float64)
        return values.mean(axis=0), _ratio((weights @ values.astype(np.float32)).astype(np.float64), total).T


def repetitions(asked: Sequence[Asked]) -> list[Repetition]:
    """Return all repetitions of a set and split, drawn together."""
    rng = np.random.default_rng(SEED)
    users, texts = (
        np.unique(np.concatenate([getattr(a, ids) for a in asked])) for ids in ("user_ids", "text_ids")
    )
    user_draws = rng.poisson(1.0, (DRAWS, len(users))).astype(np.float32)
    text_draws = rng.poisson(1.0, (DRAWS, len(texts))).astype(np.float32)
    return [
        Repetition(
            a,
            text_draws[:, np.searchsorted(texts, a.text_ids)],
            user_draws[:, np.searchsorted(users, a.user_ids)],
        )
        for a in asked
    ]


@dataclass(frozen=True)
class Curve:
    """A system's learning curve on a set and split, by k.

    Attributes:
        accuracy: Mean over users of pair accuracy; a tie counts half.
        log_loss: −log P(better ≻ worse), mean over pairs.
        user_log_loss: Mean over users of the log-loss.
        calibration: Expected calibration error, 15 equal-mass bins, pooled over repetitions.
        harmed: Share of users worse than at the smallest k, by `harmed_users`.
        changed: Shares of users worse and better, by `changed_users`.
        users: Number of users over all repetitions.
        pairs: Number of pairs over all repetitions.
    """

    accuracy: Mapping[int, Statistic]
    log_loss: Mapping[int, Statistic]
    user_log_loss: Mapping[int, Statistic]
    calibration: Mapping[int, float]
    harmed: Mapping[int, float]
    changed: Mapping[int, tuple[float, float]]
    users: int
    pairs: int


def curve(drawn: Sequence[Repetition], better: Sequence[Mapping[int, Vector]]) -> Curve:
    """Score one system's predictions, given as a mapping from k to `[n_pairs]` for each repetition."""
    shots = sorted(better[0])
    by_user: list[tuple[Vector, Vector]] = []
    by_pair: list[tuple[Vector, Vector]] = []
    harmed: dict[int, list[NDArray[np.bool_]]] = {k: [] for k in shots}
    changed: dict[int, list[NDArray[np.bool_]]] = {k: [] for k in shots}
    for repetition, found in zip(drawn, better, strict=True):
        hits = np.stack([hit(found[k]) for k in shots], axis=1)
        losses = np.stack([loss(found[k]) for k in shots], axis=1)
        by_user.append(repetition.user_means(np.concatenate([hits, losses], axis=1)))
        by_pair.append(repetition.pooled(losses))
        asked = repetition.asked
        for i, k in enumerate(shots):
            change = losses[:, i] - losses[:, 0]
            harmed[k].append(harmed_users(asked.users, change))
            changed[k].append(np.stack(changed_users(asked.users, asked.texts, change)))
    n = len(shots)
    return Curve(
        accuracy={k: _statistic(by_user, i) for i, k in enumerate(shots)},
        log_loss={k: _statistic(by_pair, i) for i, k in enumerate(shots)},
        user_log_loss={k: _statistic(by_user, n + i) for i, k in enumerate(shots)},
        calibration={k: calibration_error(np.concatenate([found[k] for found in better])) for k in shots},
        harmed={k: float(np.concatenate(flags).mean()) for k, flags in harmed.items()},
        changed={k: _shares(flags) for k, flags in changed.items()},
        users=sum(len(r.asked.user_ids) for r in drawn),
        pairs=sum(len(r.asked.users) for r in drawn),
    )


def calibration_noise(better: Vector) -> float:
    """Return the 95 % quantile of the calibration error of a perfectly calibrated model with these probabilities.

    Pairs are drawn one by one. Users and texts that recur would make the error larger still.
    """
    confidence = np.sort(np.maximum(better, 1 - better))
    starts = np.concatenate([[0], np.cumsum([len(b) for b in np.array_split(confidence, BINS)])[:-1]])
    rng = np.random.default_rng(SEED)
    found = [
        np.abs(np.add.reduceat((rng.random(len(confidence)) < confidence) - confidence, starts)).sum()
        for _ in range(CALIBRATION_DRAWS)
    ]
    return float(np.quantile(found, 0.95)) / len(confidence)


def accuracy_among(
    drawn: Sequence[Repetition], better: Sequence[Mapping[int, Vector]], context: str
) -> tuple[dict[int, Statistic], dict[int, Statistic], int] | None:
    """Return accuracy and user-mean log-loss by k in a context, and its users. None if a repetition has no pairs."""
    shots = sorted(better[0])
    found, users = [], 0
    for repetition, predicted in zip(drawn, better, strict=True):
        asked = repetition.asked
        if context not in asked.context_names:
            return None
        among = asked.contexts == asked.context_names.index(context)
        users += len(np.unique(asked.users[among]))
        hits = [hit(predicted[k]) for k in shots]
        losses = [loss(predicted[k]) for k in shots]
        found.append(repetition.user_means(np.stack([*hits, *losses], axis=1), among))
    n = len(shots)
    return (
        {k: _statistic(found, i) for i, k in enumerate(shots)},
        {k: _statistic(found, n + i) for i, k in enumerate(shots)},
        users,
    )


def hit(better: Vector) -> Vector:
    """Return 1 if the better text is predicted, ½ at a tie."""
    return np.where(better == 0.5, 0.5, (better > 0.5).astype(np.float64))


def loss(better: Vector) -> Vector:
    """Return −log P(better ≻ worse)."""
    found: Vector = -np.log(np.maximum(better, 1e-12))
    return found


def _shares(flags: Sequence[NDArray[np.bool_]]) -> tuple[float, float]:
    worse, better = np.concatenate(flags, axis=1).mean(axis=1).tolist()
    return worse, better


def _statistic(found: Sequence[tuple[Vector, Vector]], column: int) -> Statistic:
    return Statistic(
        np.array([values[column] for values, _ in found]), np.stack([draws[column] for _, draws in found])
    )


def _ratio(numerator: Vector, denominator: Vector) -> Vector:
    ratio: Vector = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=np.broadcast_to(denominator > 0, numerator.shape))
    return ratio
