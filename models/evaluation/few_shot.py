"""Few-shot evaluation: how well is a new user's next comparison predicted after k of their own judgements?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.evaluation.split import TestPair
from penchant.models.judgements.judgement import Judgement
from penchant.models.progress import Progress, silent
from penchant.models.ranking.selection import preference_logits
from penchant.models.taste.cohort import Steps, is_rank_one, learn_online
from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import Observation
from penchant.models.taste.observe import observation
from penchant.models.taste.population import Beliefs
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel, item_key

Vector = NDArray[np.float64]
Vectors = Mapping[tuple[str, str], NDArray[np.float16]]

SHOTS: Final = (0, 3, 10, 30, 100)
BOOTSTRAP: Final = 500
BINS: Final = 15
PERMUTATIONS: Final = 2000
HARM_LEVEL: Final = 0.01


class Catalogue:
    """Every (context, text) of an evaluation, described once by a reward model."""

    def __init__(self, reward: RewardModel, vectors: Vectors) -> None:
        self._rows = {item: i for i, item in enumerate(vectors)}
        keys = [item_key(context, text) for context, text in vectors]
        self.items = reward.describe(np.stack(list(vectors.values())), keys)

    def places(self, judgement: Judgement) -> list[int]:
        """Rows of the texts that were judged."""
        return [self._rows[judgement.context, text] for text in judgement.texts]

    def rows(self, items: Sequence[tuple[str, str]]) -> Items:
        """Items of (context, text) pairs."""
        return self.items[[self._rows[item] for item in items]]


def observed(judgement: Judgement, reward: RewardModel, catalogue: Catalogue) -> Observation | None:
    """A judgement in its native form; None where it says nothing."""
    return observation(
        reward,
        catalogue.rows([(judgement.context, text) for text in judgement.texts]),
        kind=judgement.kind,
        value=judgement.normalised if judgement.kind == "rating" else judgement.value,
        weight=judgement.weight,
        source=judgement.source,
        groups=judgement.groups,
    )


@dataclass(frozen=True)
class Adapted:
    """One unseen user after k of their judgements, for every k, and the pairs to predict.

    Attributes:
        beliefs: About the user, by k.
        better: m items that were preferred.
        worse: m items that were not.
        texts: `[m, 2]` index of (better, worse) text.
    """

    beliefs: dict[int, Beliefs]
    better: Items
    worse: Items
    texts: NDArray[np.int64]


def adapt(
    reward: RewardModel,
    vectors: Vectors,
    support: Mapping[str, Sequence[Judgement]],
    test: Mapping[str, Sequence[TestPair]],
    *,
    shots: Sequence[int] = SHOTS,
    progress: Progress = silent,
) -> list[Adapted]:
    """Learns every unseen user's first k support judgements; k beyond what a user has means all they have."""
    catalogue = Catalogue(reward, vectors)
    known: dict[str, dict[int, Beliefs]] = {user: {} for user in test}
    most = max(shots)
    at_once = [user for user in test if all(is_rank_one(j) for j in support[user][:most])]
    steps = Steps.of(
        reward,
        catalogue.items,
        [[(j, catalogue.places(j)) for j in support[user][:most]] for user in at_once],
    )
    for number, (k, beliefs) in enumerate(learn_online(reward.population, steps, shots)):
        for user, found in zip(at_once, beliefs, strict=True):
            known[user][k] = found
        progress("learn", number + 1, len(shots))
    for user in known.keys() - set(at_once):
        known[user] = _learn_one(reward, catalogue, support[user], shots)
    text_index: dict[str, int] = {}
    adapted = []
    for user, pairs in test.items():
        rows = [[text_index.setdefault(t, len(text_index)) for t in (p.better, p.worse)] for p in pairs]
        adapted.append(
            Adapted(
                known[user],
                catalogue.rows([(p.context, p.better) for p in pairs]),
                catalogue.rows([(p.context, p.worse) for p in pairs]),
                np.array(rows, np.int64),
            )
        )
    return adapted


def _learn_one(
    reward: RewardModel, catalogue: Catalogue, support: Sequence[Judgement], shots: Sequence[int]
) -> dict[int, Beliefs]:
    """One user, one judgement after the other: for listwise judgements, whose sites are not rank one."""
    posterior, known, learned = UserPosterior.at_prior(reward.population), {}, 0
    for k in sorted(shots):
        for judgement in support[learned:k]:
            said = observed(judgement, reward, catalogue)
            if said is not None:
                posterior = posterior.learn(said)
        learned = max(k, learned)
        known[k] = posterior.beliefs
    return known


@dataclass(frozen=True)
class Predictions:
    """Few-shot predictions of one repetition.

    Attributes:
        users: `[n_pairs]` index of the user of each test pair, grouped.
        texts: `[n_pairs, 2]` index of (better, worse) text.
        better: By k, `[n_pairs]` P(better ≻ worse).
    """

    users: NDArray[np.int64]
    texts: NDArray[np.int64]
    better: dict[int, Vector]


class Forecast:
    """Predictions for any temperature: the part that does not depend on it is computed once."""

    def __init__(self, adapted: Sequence[Adapted]) -> None:
        self._users = np.concatenate([np.full(len(a.better), number) for number, a in enumerate(adapted)])
        self._texts = np.concatenate([a.texts for a in adapted])
        self._weights: dict[int, Vector] = {}
        self._logits: dict[int, Vector] = {}
        for k in adapted[0].beliefs:
            logits = [preference_logits(a.beliefs[k], a.better, a.worse) for a in adapted]
            self._logits[k] = np.concatenate(logits, axis=1)
            weights = [a.beliefs[k].weights for a in adapted]
            self._weights[k] = np.stack(weights, axis=1)[:, self._users]

    def at(self, temperature: float) -> Predictions:
        """P(better ≻ worse) of every test pair at every k."""
        better = {
            k: np.asarray((self._weights[k] * expit(temperature * logits)).sum(axis=0))
            for k, logits in self._logits.items()
        }
        return Predictions(self._users, self._texts, better)


def predict(reward: RewardModel, adapted: Sequence[Adapted]) -> Predictions:
    """P(better ≻ worse) of every test pair at every k, with the reward model's temperature."""
    return Forecast(adapted).at(reward.temperature)


@dataclass(frozen=True)
class Point:
    """The learning curve at k.

    Attributes:
        k: Judgements of the user's own.
        accuracy: Mean over users of pair accuracy (a tie counts half), mean of repetitions.
        log_loss: Mean over pairs of −log P(better ≻ worse).
        accuracy_interval: 95 %, two-way bootstrap over users and texts within repetitions.
        log_loss_interval: Likewise.
        calibration_error: 15 equal-mass bins of confidence, pooled over repetitions.
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
        repetitions: How many were averaged.
        users: Unseen users evaluated, over all repetitions.
        bundle: Version of the bundle evaluated, or how models were fitted.
        curve: One point a k.
    """

    set: str
    split: str
    repetitions: int
    users: int
    bundle: str
    curve: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def curve(repetitions: Sequence[Predictions], *, seed: int = 0) -> tuple[Point, ...]:
    """Aggregates repetitions: figures are means over repetitions, intervals resample users and texts in each."""
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
    # Two-way (pigeonhole) bootstrap: a pair counts as often as its user and both its texts were drawn.
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
    """Expected calibration error of the predicted winner's probability, 15 equal-mass bins.

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
    """Per user: is the log-loss measurably higher? Sign-flip permutation of the user's paired differences."""
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
    """NaN where a draw hit nothing."""
    ratio: Vector = np.divide(
        numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0
    )
    return ratio


def _interval(draws: Vector) -> tuple[float, float]:
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return float(low), float(high)
