"""Learning curves from predictions: accuracy, log-loss, calibration and harm, with intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.evaluation.few_shot import Predictions, Vector

BOOTSTRAP: Final = 500
BINS: Final = 15
PERMUTATIONS: Final = 2000
HARM_LEVEL: Final = 0.01


@dataclass(frozen=True)
class Point:
    """The learning curve at k.

    Attributes:
        k: Number of judgements learned of each user.
        accuracy: Pair accuracy (a tie counts half), mean over users and repetitions.
        log_loss: Mean over pairs of −log P(better ≻ worse).
        accuracy_interval: 95 % interval of the accuracy, by a two-way bootstrap over users and texts within repetitions.
        log_loss_interval: 95 % interval of the log-loss, by the same bootstrap.
        calibration_error: Expected calibration error, 15 equal-mass bins, pooled over repetitions.
        user_log_loss: Log-loss, mean over users.
        harmed: Share of users measurably worse than at the smallest k (paired permutation, p < .01).
    """

    k: int
    accuracy: float
    log_loss: float
    accuracy_interval: tuple[float, float]
    log_loss_interval: tuple[float, float]
    calibration_error: float
    user_log_loss: float
    harmed: float


@dataclass(frozen=True)
class Report:
    """Result of an evaluation.

    Attributes:
        set: Name of the data set.
        split: `cold` or `warm`.
        repetitions: Number of repetitions averaged.
        users: Number of unseen users evaluated, over all repetitions.
        bundle: Version of the evaluated bundle, or a description of how models were fitted.
        curve: One point per k.
    """

    set: str
    split: str
    repetitions: int
    users: int
    bundle: str
    curve: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def curve(repetitions: Sequence[Predictions], *, seed: int = 0) -> tuple[Point, ...]:
    """Return the learning curve: means over repetitions, and intervals that resample users and texts in each."""
    rng = np.random.default_rng(seed)
    shots = list(repetitions[0].better)
    tables = [_repetition(p, rng) for p in repetitions]
    points = []
    for k in shots:
        rows = [table[k] for table in tables]
        points.append(
            Point(
                k=k,
                accuracy=float(np.mean([r.accuracy for r in rows])),
                log_loss=float(np.mean([r.log_loss for r in rows])),
                accuracy_interval=_interval(np.mean([r.accuracy_draws for r in rows], axis=0)),
                log_loss_interval=_interval(np.mean([r.log_loss_draws for r in rows], axis=0)),
                calibration_error=calibration_error(np.concatenate([p.better[k] for p in repetitions])),
                user_log_loss=float(np.mean([r.user_log_loss for r in rows])),
                harmed=float(np.mean(np.concatenate([r.harmed for r in rows]))),
            )
        )
    return tuple(points)


@dataclass(frozen=True)
class _Row:
    """One repetition at one k; draws are `[BOOTSTRAP]`, `harmed` is `[n_users]`."""

    accuracy: float
    log_loss: float
    user_log_loss: float
    accuracy_draws: Vector
    log_loss_draws: Vector
    harmed: NDArray[np.bool_]


def _repetition(predictions: Predictions, rng: np.random.Generator) -> dict[int, _Row]:
    users, texts = predictions.users, predictions.texts
    n_users, n_texts = int(users.max()) + 1, int(texts.max()) + 1
    starts = np.searchsorted(users, np.arange(n_users))
    # Two-way (pigeonhole) bootstrap: the weight of a pair is the product of the counts of its user and both texts.
    user_counts = rng.multinomial(n_users, np.full(n_users, 1 / n_users), BOOTSTRAP)
    text_counts = rng.multinomial(n_texts, np.full(n_texts, 1 / n_texts), BOOTSTRAP)
    text_weights = (text_counts[:, texts[:, 0]] * text_counts[:, texts[:, 1]]).astype(np.float64)
    pair_weights = text_weights * user_counts[:, users]
    mass = np.add.reduceat(text_weights, starts, axis=1)
    present = user_counts * (mass > 0)
    baseline = _log_losses(next(iter(predictions.better.values())))
    table = {}
    for k, better in predictions.better.items():
        hits, losses = _hits(better), _log_losses(better)
        by_user = np.add.reduceat(text_weights * hits, starts, axis=1) / np.maximum(mass, 1.0)
        table[k] = _Row(
            accuracy=_user_mean(users, hits),
            log_loss=float(losses.mean()),
            user_log_loss=_user_mean(users, losses),
            accuracy_draws=_ratio((by_user * present).sum(1), present.sum(1)),
            log_loss_draws=_ratio(pair_weights @ losses, pair_weights.sum(1)),
            harmed=_harmed(users, losses - baseline, rng),
        )
    return table


def calibration_error(better: Vector) -> float:
    """Return the expected calibration error of the predicted winner's probability, in 15 equal-mass bins.

    P(better ≻ worse) and its complement are one prediction, so the bins are of confidence max(p, 1 − p).
    """
    confidence = np.maximum(better, 1 - better)
    hit = _hits(better)
    bins = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    gaps = [len(rows) * abs(hit[rows].mean() - confidence[rows].mean()) for rows in bins if len(rows)]
    return float(sum(gaps) / len(better))


def _hits(better: Vector) -> Vector:
    return np.where(better == 0.5, 0.5, (better > 0.5).astype(np.float64))


def _log_losses(better: Vector) -> Vector:
    losses: Vector = -np.log(np.maximum(better, 1e-12))
    return losses


def _user_mean(users: NDArray[np.int64], values: Vector) -> float:
    return float((np.bincount(users, values) / np.bincount(users)).mean())


def _harmed(users: NDArray[np.int64], change: Vector, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether each user's log-loss is significantly higher: a sign-flip permutation test of the paired differences."""
    harmed = []
    for user in range(int(users.max()) + 1):
        differences = change[users == user]
        observed = differences.mean()
        if observed <= 0:
            harmed.append(False)
            continue
        signs = rng.choice([-1.0, 1.0], (PERMUTATIONS, len(differences)))
        exceed = ((signs * differences).mean(1) >= observed - 1e-15).sum()
        harmed.append((exceed + 1) / (PERMUTATIONS + 1) < HARM_LEVEL)
    return np.array(harmed)


def _ratio(numerator: Vector, denominator: Vector) -> Vector:
    """Ratio `[draws]`, NaN for a draw without any pair."""
    ratio: Vector = np.divide(
        numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0
    )
    return ratio


def _interval(draws: Vector) -> tuple[float, float]:
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return float(low), float(high)
