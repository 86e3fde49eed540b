"""Choosing rank, archetypes, tastes and temperature on held-out train users and texts, then fitting on all of them.

A quarter of the users is held out. For every rank one model is fitted to the others. In `cold` mode the texts are then
left out in turn, fold by fold: text prior and item memory are formed without the fold's texts, the held-out users learn
from their judgements of the other texts and their comparisons of the fold's texts are predicted. All texts serve: which
texts are held out moves the figures by several points, so that one fold would choose by chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint
from penchant.models.evaluation.few_shot import Adapted, Forecast, Predictions, Vectors, adapt
from penchant.models.evaluation.split import Mode, TestPair, bucket, group_by_user, split_user
from penchant.models.fitting.assemble import population
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.taste_families import FAMILIES, directions
from penchant.models.judgements.judgement import Judgement
from penchant.models.progress import Progress, silent
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import RewardModel

RANKS: Final = (0, 2, 4)
ARCHETYPES: Final = (2, 4, 8)
SHOTS: Final = (0, 3, 10, 30, 100)
HELD_OUT_USERS: Final = 0.25
MOST_USERS: Final[Mapping[Mode, int]] = {"cold": 120, "warm": 400}
"""A user serves in five folds in `cold` mode, in one in `warm` mode."""

FOLDS: Final = 5
TRIAL_ROUNDS: Final = 12
MIN_USERS: Final = 20
"""With fewer held-out users than this nothing can be chosen: rank 0 and temperature 1, the safe default."""

TEMPERATURES: Final = (0.3, 4.0)


@dataclass(frozen=True)
class Choice:
    """What held-out users decide.

    Attributes:
        rank: Directions of taste.
        archetypes: Components of the mixture prior.
        tastes: Which of `taste_families.FAMILIES`.
        taste_variance: Prior variance of a user's tastes together, in units of the family's shares.
        temperature: Of probabilities.
    """

    rank: int = 0
    archetypes: int = 1
    tastes: str = "none"
    taste_variance: float = 0.0
    temperature: float = 1.0

    def shape(self, reward: RewardModel, fit: Fit) -> RewardModel:
        """Gives a reward model of a fit the chosen tastes and temperature."""
        loadings, shares = directions(self.tastes, fit)
        if len(shares):
            reward = reward.with_tastes(loadings, self.taste_variance * shares)
        return replace(reward, temperature=self.temperature)


@dataclass(frozen=True)
class Trial:
    """What one choice was worth on held-out users.

    Attributes:
        choice: What was tried, with its best temperature.
        log_loss: Mean over users of their few-shot log-loss, k > 0.
        gain: Mean reduction of it against the first trial, paired by user.
        gain_error: Standard error of the gain.
    """

    choice: Choice
    log_loss: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class Tuned:
    """A fitted reward model and how it was chosen.

    Attributes:
        reward: Fitted on all train judgements.
        choice: What was chosen.
        trials: All that was tried.
        held_out_users: How many users the choice rests on.
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
    remember: bool = True,
    declared: tuple[str, float] | None = None,
    progress: Progress = silent,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Tuned:
    """Fits a reward model; rank, archetypes, tastes and temperature are chosen within the given judgements.

    Args:
        judgements: Train judgements.
        vectors: Features of every (context, text) in them.
        mode: What the model is for: new texts (`cold`) or texts that recur (`warm`).
        options: Everything but the rank.
        ranks: Ranks to try, ascending.
        remember: Keep an item memory.
        declared: Tastes and their variance, declared instead of chosen: for a model that will meet texts and users
            unlike those it was fitted on. The trials tell what they cost on these.
        progress: Called with stage, done, total.
        checkpoint: Where fits and trials are kept; work that was interrupted goes on from there.
    """
    base = options or FitOptions()
    held_out = HeldOut(judgements, vectors, mode)
    choice = Choice()
    trials: tuple[Trial, ...] = ()
    if len(held_out.users) >= MIN_USERS and held_out.train:
        search = Search(held_out, base, progress, checkpoint)
        choice, trials = search.choose(ranks, declared), tuple(search.trials)
    options = replace(base, rank=choice.rank, archetypes=choice.archetypes)
    fit = Fit(Dataset.of(judgements, vectors), options).run(_within("fit", progress), checkpoint, "fit")
    return Tuned(choice.shape(fit.reward(remember=remember), fit), choice, trials, len(held_out.users))


class HeldOut:
    """Held-out users and what is asked of them.

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
        tasks = [_fold(f) for f in range(FOLDS)] if self._cold else [_held_out_cell]
        self._folds = [({}, {}) for _ in tasks]
        for user in sorted(left_out, key=lambda user: bucket("inner", "order", user)):
            source = by_user[user][0].source if by_user[user] else ""
            found = [split_user(by_user[user], task) for task in tasks]
            # Every source gives the same number of users at most, or the largest would choose for all.
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
            if not j.own and j.user not in left_out and (self._cold or not _held_out_cell(j))
        ]

    def rewards(self, fit: Fit) -> list[RewardModel]:
        """One reward model a fold, of a fit to the other users: in `cold` mode without the fold's texts."""
        if not self._cold:
            return [fit.reward()]
        return [fit.reward(without=self._fold_items(fit.data, number)) for number in range(FOLDS)]

    def adapt(self, rewards: Sequence[RewardModel]) -> list[Adapted]:
        """The held-out users after their few shots, in every fold, by that fold's reward model."""
        adapted = []
        for reward, (support, test) in zip(rewards, self._folds, strict=True):
            if not test:
                continue
            asked = {(p.context, t) for pairs in test.values() for p in pairs for t in (p.better, p.worse)}
            asked |= {
                (j.context, t) for rows in support.values() for j in rows[: max(SHOTS)] for t in j.texts
            }
            needed = {item: self.vectors[item] for item in sorted(asked)}
            adapted += adapt(reward, needed, support, test, shots=SHOTS)
        return adapted

    def _fold_items(self, data: Dataset, fold: int) -> NDArray[np.bool_]:
        left_out = {item_key(context, text) for context, text in self.vectors if _fold_of(text) == fold}
        return np.array([key in left_out for key in data.keys], np.bool_)


class Search:
    """Tries choices on held-out users: the rank first, then archetypes for it, then tastes beside them.

    Args:
        held_out: Who is asked what.
        base: Everything that is not chosen.
        progress: Called with stage, done, total.
        checkpoint: Keeps fits and trials.

    Attributes:
        trials: All that was tried.
    """

    def __init__(
        self, held_out: HeldOut, base: FitOptions, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        self._held_out, self._base = held_out, base
        self._progress, self._checkpoint = progress, checkpoint
        self._data = Dataset.of(held_out.train, held_out.vectors)
        self._losses: list[NDArray[np.float64]] = []
        self.trials: list[Trial] = []

    def choose(self, ranks: Sequence[int], declared: tuple[str, float] | None) -> Choice:
        """What personalizes must be measurably better than what does not."""
        fits = [self._fit(rank) for rank in ranks]
        rewards = [self._held_out.rewards(fit) for fit in fits]
        for rank, fit, folds in zip(ranks, fits, rewards, strict=True):
            self._attempt(fit, folds, Choice(rank))
        best = _best(self._losses, range(len(ranks)), harmless=declared is not None)
        fit, folds = fits[best], rewards[best]
        tried = [best]
        if self.trials[best].choice.rank and not declared:
            for number in ARCHETYPES:
                prior = population(fit.archetypes(number))
                grouped = [replace(reward, population=prior) for reward in folds]
                tried.append(
                    self._attempt(fit, grouped, replace(self.trials[best].choice, archetypes=number))
                )
            best = _best(self._losses, tried)
            prior = population(fit.archetypes(self.trials[best].choice.archetypes))
            folds = [replace(reward, population=prior) for reward in folds]
        tried = [best]
        wider = (
            [declared] if declared else [(name, size) for name, sizes in FAMILIES.items() for size in sizes]
        )
        for number, (tastes, variance) in enumerate(wider):
            choice = replace(self.trials[best].choice, tastes=tastes, taste_variance=variance)
            tried.append(self._attempt(fit, folds, choice))
            self._progress("try tastes", number + 1, len(wider))
        chosen = tried[-1] if declared else _best(self._losses, tried)
        return self.trials[chosen].choice

    def _fit(self, rank: int) -> Fit:
        options = replace(self._base, rank=rank, rounds=min(self._base.rounds, TRIAL_ROUNDS))
        stage = f"try rank {rank}"
        return Fit(self._data, options).run(_within(stage, self._progress), self._checkpoint, stage)

    def _attempt(self, fit: Fit, folds: Sequence[RewardModel], choice: Choice) -> int:
        """Records a trial; returns its number."""
        stage = f"trial {len(self.trials)}"
        kept = self._checkpoint.load(stage)
        if kept is None:
            forecast = Forecast(self._held_out.adapt([choice.shape(reward, fit) for reward in folds]))
            temperature = best_temperature(forecast)
            kept = {"temperature": np.array(temperature), "losses": _losses(forecast.predict(temperature))}
            self._checkpoint.save(stage, kept)
        losses = kept["losses"]
        self._losses.append(losses)
        gain = self._losses[0] - losses
        error = float(gain.std(ddof=1) / len(gain) ** 0.5)
        choice = replace(choice, temperature=float(kept["temperature"]))
        self.trials.append(Trial(choice, float(losses.mean()), float(gain.mean()), error))
        return len(self.trials) - 1


def _best(losses: Sequence[NDArray[np.float64]], among: Sequence[int], *, harmless: bool = False) -> int:
    """The choice of least mean loss, if it beats the first and simplest by one standard error, paired by user.

    Between choices that personalize the mean decides: the standard error of a few hundred users is wider than the steps
    between ranks, and superfluous directions are shrunk by the fit itself. With `harmless` the mean decides alone.
    """
    best = min(among, key=lambda i: float(losses[i].mean()))
    gain = losses[among[0]] - losses[best]
    measurable = gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5
    return best if harmless or measurable else among[0]


def best_temperature(forecast: Forecast) -> float:
    """Temperature of least pooled log-loss, mean over all shots."""

    def loss(log_temperature: float) -> float:
        better = forecast.predict(float(np.exp(log_temperature))).better.values()
        return float(np.mean([-np.log(np.maximum(p, 1e-12)).mean() for p in better]))

    low, high = np.log(TEMPERATURES)
    return float(
        np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.01}).x)
    )


def _losses(found: Predictions) -> NDArray[np.float64]:
    """Per user and fold, the mean log-loss over the shots with personal judgements."""
    counts = np.bincount(found.users)
    per_shot = [
        np.bincount(found.users, -np.log(np.maximum(p, 1e-12))) / counts
        for k, p in found.better.items()
        if k > 0
    ]
    return np.asarray(np.mean(per_shot, axis=0))


@lru_cache(maxsize=1 << 17)
def _fold_of(text: str) -> int:
    return int(bucket("inner", "fold", text) * FOLDS)


def _fold(number: int) -> Callable[[Judgement], bool]:
    return lambda judgement: any(_fold_of(text) == number for text in judgement.texts)


def _held_out_cell(judgement: Judgement) -> bool:
    return bucket("inner", "cell", judgement.user, *judgement.texts) < 0.3


def _within(stage: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(stage, done, total)
