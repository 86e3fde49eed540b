"""Choosing rank, archetypes, tastes and temperature on held-out users and texts, then fitting to all of them.

A quarter of the users is held out, and for every rank one model is fitted to the others. In `cold` mode the texts are
then left out in turn, fold by fold. Text prior and item memory are formed without the texts of the fold, the held-out
users learn from their judgements of the other texts, and their comparisons of the fold's texts are predicted. All
folds are
needed: the figures of single folds differ by several points, so that one fold would choose by chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, Progress, ignore_progress
from penchant.models.evaluation.few_shot import Adapted, Forecast, Predictions, Vectors, adapt
from penchant.models.evaluation.split import Mode, TestPair, bucket, group_by_user, split_user
from penchant.models.fitting.assemble import build_population
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.relevance import fit_relevance
from penchant.models.fitting.taste_families import FAMILIES, compute_directions
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import RewardModel

RANKS: Final = (0, 2, 4)
ARCHETYPES: Final = (2, 4, 8)
SHOTS: Final = (0, 3, 10, 30, 100)
HELD_OUT_USERS: Final = 0.25
MOST_USERS: Final[Mapping[Mode, int]] = {"cold": 120, "warm": 400}
"""Largest number of held-out users. In `cold` mode each of them is evaluated in five folds, in `warm` mode in one."""

FOLDS: Final = 5
TRIAL_ROUNDS: Final = 12
"""Largest number of rounds of a fit that only serves a choice."""

MIN_USERS: Final = 20
"""Smallest number of held-out users. With fewer, the choice is the safe default: rank 0 and temperature 1."""

TEMPERATURES: Final = (0.3, 4.0)
"""Bounds of the temperature."""


@dataclass(frozen=True)
class Choice:
    """Hyperparameters that are chosen on held-out users.

    Attributes:
        rank: Number of directions of taste.
        archetypes: Number of components of the mixture prior.
        tastes: Family of `taste_families.FAMILIES`, several joined by `+`, or `none`.
        taste_variance: Total prior variance of a user's weights on the family, which its shares divide.
        temperature: Temperature of probabilities.
    """

    rank: int = 0
    archetypes: int = 1
    tastes: str = "none"
    taste_variance: float = 0.0
    temperature: float = 1.0

    def apply(self, reward: RewardModel, fit: Fit) -> RewardModel:
        """Return a reward model of the fit with the chosen tastes and temperature."""
        loadings, shares = compute_directions(self.tastes, fit)
        if len(shares):
            reward = reward.with_tastes(loadings, self.taste_variance * shares)
        return replace(reward, temperature=self.temperature)


@dataclass(frozen=True)
class Trial:
    """Result of one choice on the held-out users.

    Attributes:
        choice: Hyperparameters that were tried, with their best temperature.
        log_loss: Few-shot log-loss, mean over users and over k > 0 shots.
        gain: Mean reduction of the log-loss against the first trial, paired by user.
        gain_error: Standard error of the gain.
    """

    choice: Choice
    log_loss: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class TunedModel:
    """A fitted reward model and the trials behind its hyperparameters.

    Attributes:
        reward: Reward model, fitted to all judgements.
        choice: Hyperparameters that were chosen.
        trials: All trials, in order.
        held_out_users: Number of users that the choice rests on.
    """

    reward: RewardModel
    choice: Choice
    trials: tuple[Trial, ...]
    held_out_users: int


def fit_reward(
    judgements: Sequence[Judgement],
    vectors: Vectors,
    *,
    mode: Mode = "cold",
    options: FitOptions | None = None,
    ranks: Sequence[int] = RANKS,
    with_memory: bool = True,
    declared: tuple[str, float] | None = None,
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> TunedModel:
    """Fit a reward model. Rank, archetypes, tastes and temperature are chosen on held-out users among the judgements.

    Args:
        judgements: Judgements to fit to.
        vectors: Features of every judged (context, text).
        mode: `cold` for a model of new texts, `warm` for a model of texts that recur.
        options: Options of the fit. Rank and archetypes are ignored, because they are chosen.
        ranks: Ranks to try, ascending.
        with_memory: Whether to keep an item memory.
        declared: Tastes and their variance, if they are given instead of chosen. This suits a model that will serve
            texts and users unlike those that it is fitted to. The trials show the loss of the given tastes on the
            latter.
        progress: Callback that reports progress.
        checkpoint: Checkpoint for fits and trials, from which an interrupted call resumes.
    """
    base = options or FitOptions()
    held_out = HeldOutUsers(judgements, vectors, mode)
    choice = Choice()
    trials: tuple[Trial, ...] = ()
    if len(held_out.users) >= MIN_USERS and held_out.train:
        search = ChoiceSearch(held_out, base, progress, checkpoint)
        choice, trials = search.choose(ranks, declared), tuple(search.trials)
    options = replace(base, rank=choice.rank, archetypes=choice.archetypes)
    data = Dataset.from_judgements(judgements, vectors, fit_relevance(judgements, vectors))
    fit = Fit(data, options).run(_name_stage("fit", progress), checkpoint, "fit")
    return TunedModel(
        choice.apply(fit.build_reward_model(with_memory=with_memory), fit),
        choice,
        trials,
        len(held_out.users),
    )


class HeldOutUsers:
    """Held-out users, with their support judgements and test pairs in each fold.

    Args:
        judgements: Judgements of all users.
        vectors: Features of every judged (context, text).
        mode: `cold` or `warm`.

    Attributes:
        train: Judgements of the other users.
        users: Names of the held-out users with enough judgements.
    """

    def __init__(self, judgements: Sequence[Judgement], vectors: Vectors, mode: Mode) -> None:
        self.vectors = vectors
        self._cold = mode == "cold"
        by_user = group_by_user(judgements)
        left_out = {user for user in by_user if bucket("inner", "user", user) < HELD_OUT_USERS}
        sources = {j.source: 0 for j in judgements}
        self._folds: list[tuple[dict[str, list[Judgement]], dict[str, list[TestPair]]]] = []
        self.users: list[str] = []
        tasks = [_make_fold_test(f) for f in range(FOLDS)] if self._cold else [_is_held_out_cell]
        self._folds = [({}, {}) for _ in tasks]
        for user in sorted(left_out, key=lambda user: bucket("inner", "order", user)):
            source = by_user[user][0].source if by_user[user] else ""
            found = [split_user(by_user[user], task) for task in tasks]
            # Every source contributes at most the same number of users, or the largest would decide alone.
            if not any(found) or sources[source] >= MOST_USERS[mode] // len(sources):
                continue
            sources[source] += 1
            self.users.append(user)
            for (support, test), answer in zip(self._folds, found, strict=True):
                if answer is not None:
                    support[user], test[user] = answer
        self.train = [
            j
            for j in judgements
            if not j.own and j.user not in left_out and (self._cold or not _is_held_out_cell(j))
        ]

    def build_reward_models(self, fit: Fit) -> list[RewardModel]:
        """Build a reward model for each fold from a fit to the other users, in `cold` mode without the fold's texts."""
        if not self._cold:
            return [fit.build_reward_model()]
        return [
            fit.build_reward_model(excluded=self._mask_fold_items(fit.data, number))
            for number in range(FOLDS)
        ]

    def adapt(self, rewards: Sequence[RewardModel]) -> list[Adapted]:
        """Adapt the reward model of each fold to the held-out users by their support judgements."""
        adapted = []
        for reward, (support, test) in zip(rewards, self._folds, strict=True):
            if not test:
                continue
            needed_texts = {
                (p.context, t) for pairs in test.values() for p in pairs for t in (p.better, p.worse)
            }
            needed_texts |= {
                (j.context, t) for rows in support.values() for j in rows[: max(SHOTS)] for t in j.texts
            }
            needed = {item: self.vectors[item] for item in sorted(needed_texts)}
            adapted += adapt(reward, needed, support, test, shots=SHOTS)
        return adapted

    def _mask_fold_items(self, data: Dataset, fold: int) -> NDArray[np.bool_]:
        left_out = {item_key(context, text) for context, text in self.vectors if _assign_fold(text) == fold}
        return np.array([key in left_out for key in data.keys], np.bool_)


class ChoiceSearch:
    """A search for the best choice on held-out users: first the rank, then the archetypes, then the tastes.

    Args:
        held_out: Held-out users.
        base: Options that are not chosen.
        progress: Callback that reports progress.
        checkpoint: Checkpoint for fits and trials.

    Attributes:
        trials: All trials, in order.
    """

    def __init__(
        self, held_out: HeldOutUsers, base: FitOptions, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        self._held_out, self._base = held_out, base
        self._progress, self._checkpoint = progress, checkpoint
        relevance = fit_relevance(held_out.train, held_out.vectors)
        self._data = Dataset.from_judgements(held_out.train, held_out.vectors, relevance)
        self._losses: list[NDArray[np.float64]] = []
        self.trials: list[Trial] = []

    def choose(self, ranks: Sequence[int], declared: tuple[str, float] | None) -> Choice:
        """Return the best choice. One that personalizes must be measurably better than the first, which does not."""
        fits = [self._fit(rank) for rank in ranks]
        rewards = [self._held_out.build_reward_models(fit) for fit in fits]
        for rank, fit, folds in zip(ranks, fits, rewards, strict=True):
            self._run_trial(fit, folds, Choice(rank))
        best = _find_best(self._losses, range(len(ranks)), by_mean=declared is not None)
        fit, folds = fits[best], rewards[best]
        tried = [best]
        if self.trials[best].choice.rank and not declared:
            for number in ARCHETYPES:
                prior = build_population(fit.split_archetypes(number))
                grouped = [replace(reward, population=prior) for reward in folds]
                tried.append(
                    self._run_trial(fit, grouped, replace(self.trials[best].choice, archetypes=number))
                )
            best = _find_best(self._losses, tried)
            prior = build_population(fit.split_archetypes(self.trials[best].choice.archetypes))
            folds = [replace(reward, population=prior) for reward in folds]
        tried = [best]
        families = (
            [declared] if declared else [(name, size) for name, sizes in FAMILIES.items() for size in sizes]
        )
        for number, (tastes, variance) in enumerate(families):
            choice = replace(self.trials[best].choice, tastes=tastes, taste_variance=variance)
            tried.append(self._run_trial(fit, folds, choice))
            self._progress("try tastes", number + 1, len(families))
        chosen = tried[-1] if declared else _find_best(self._losses, tried)
        return self.trials[chosen].choice

    def _fit(self, rank: int) -> Fit:
        options = replace(self._base, rank=rank, rounds=min(self._base.rounds, TRIAL_ROUNDS))
        stage = f"try rank {rank}"
        return Fit(self._data, options).run(_name_stage(stage, self._progress), self._checkpoint, stage)

    def _run_trial(self, fit: Fit, folds: Sequence[RewardModel], choice: Choice) -> int:
        """Evaluate a choice, record the trial and return its number."""
        stage = f"trial {len(self.trials)}"
        saved = self._checkpoint.load(stage)
        if saved is None:
            forecast = Forecast(self._held_out.adapt([choice.apply(reward, fit) for reward in folds]))
            temperature = find_best_temperature(forecast)
            saved = {
                "temperature": np.array(temperature),
                "losses": _compute_losses(forecast.predict(temperature)),
            }
            self._checkpoint.save(stage, saved)
        losses = saved["losses"]
        self._losses.append(losses)
        gain = self._losses[0] - losses
        error = float(gain.std(ddof=1) / len(gain) ** 0.5)
        choice = replace(choice, temperature=float(saved["temperature"]))
        self.trials.append(Trial(choice, float(losses.mean()), float(gain.mean()), error))
        return len(self.trials) - 1


def _find_best(
    losses: Sequence[NDArray[np.float64]], candidates: Sequence[int], *, by_mean: bool = False
) -> int:
    """Return the number of the choice of least mean loss if it beats the first by one standard error, paired by user.

    Among choices that personalize, the mean decides: with a few hundred users, the standard error is wider than the
    steps between ranks, and the fit shrinks superfluous directions. With `by_mean` the mean decides in all cases.
    """
    best = min(candidates, key=lambda i: float(losses[i].mean()))
    gain = losses[candidates[0]] - losses[best]
    measurable = gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5
    return best if by_mean or measurable else candidates[0]


def find_best_temperature(forecast: Forecast) -> float:
    """Return the temperature of least log-loss, pooled over users and averaged over all shots."""

    def loss(log_temperature: float) -> float:
        better = forecast.predict(float(np.exp(log_temperature))).better.values()
        return float(np.mean([-np.log(np.maximum(p, 1e-12)).mean() for p in better]))

    low, high = np.log(TEMPERATURES)
    return float(
        np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.01}).x)
    )


def _compute_losses(found: Predictions) -> NDArray[np.float64]:
    """Return the mean log-loss over k > 0 shots of each user and fold."""
    counts = np.bincount(found.users)
    per_shot = [
        np.bincount(found.users, -np.log(np.maximum(p, 1e-12))) / counts
        for k, p in found.better.items()
        if k > 0
    ]
    return np.asarray(np.mean(per_shot, axis=0))


@lru_cache(maxsize=1 << 17)
def _assign_fold(text: str) -> int:
    return int(bucket("inner", "fold", text) * FOLDS)


def _make_fold_test(number: int) -> Callable[[Judgement], bool]:
    return lambda judgement: any(_assign_fold(text) == number for text in judgement.texts)


def _is_held_out_cell(judgement: Judgement) -> bool:
    return bucket("inner", "cell", judgement.user, *judgement.texts) < 0.3


def _name_stage(stage: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(stage, done, total)
