"""Choosing rank, archetypes, tastes, gate and temperature on held-out users and texts, then fitting to all of them.

A quarter of the users is held out, and for every rank one model is fitted to the others. In `cold` mode the texts are
then left out in turn, fold by fold. Text prior and item memory are formed without the texts of the fold, the held-out
users learn from their judgements of the other texts, and their comparisons of the fold's texts are predicted. All
folds are needed: the figures of single folds differ by several points, so that one fold would choose by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, Progress, ignore_progress
from penchant.models.evaluation.few_shot import Forecast, Predictions, Vectors
from penchant.models.evaluation.split import Mode
from penchant.models.fitting.assemble import build_population
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.gates import GATE_SIZES, GATED_FAMILIES, GateFitter, GateOption
from penchant.models.fitting.held_out import HeldOutUsers
from penchant.models.fitting.relevance import fit_relevance
from penchant.models.fitting.taste_families import FAMILIES, compute_directions
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.reward import RewardModel

RANKS: Final = (0, 2, 4)
ARCHETYPES: Final = (2, 4, 8)
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
        gate: Number of gate values, on which taste depends. 0 for no gate.
        gated: Family of gated directions of taste.
    """

    rank: int = 0
    archetypes: int = 1
    tastes: str = "none"
    taste_variance: float = 0.0
    temperature: float = 1.0
    gate: int = 0
    gated: str = "none"

    def apply(self, reward: RewardModel, fit: Fit, gates: GateFitter | None = None) -> RewardModel:
        """Return a reward model of the fit with the chosen tastes, gate and temperature. A gate needs its fitter."""
        loadings, shares = compute_directions(self.tastes, fit)
        if len(shares):
            reward = reward.with_tastes(loadings, self.taste_variance * shares)
        if self.gate and gates:
            reward = gates.add(reward, fit, self.gated, self.gate)
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
    gate: GateOption = 0,
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
        gate: Number of gate values; `auto` chooses it, and has no gate unless one is measurably better. A gate needs
            features that hold the embeddings of prompts.
        progress: Callback that reports progress.
        checkpoint: Checkpoint for fits and trials, from which an interrupted call resumes.

    Raises:
        GateError: If a gate is wanted and the features do not hold the embeddings of prompts.
    """
    fitter = GateFitter(judgements, vectors) if gate else None
    base = options or FitOptions()
    held_out = HeldOutUsers(judgements, vectors, mode)
    forced = 0 if gate == "auto" else gate
    choice = Choice(gate=forced, gated=GATED_FAMILIES[0]) if forced else Choice()
    trials: tuple[Trial, ...] = ()
    if len(held_out.users) >= MIN_USERS and held_out.train:
        search = ChoiceSearch(held_out, base, progress, checkpoint)
        choice, trials = search.choose(ranks, declared, gate), tuple(search.trials)
    options = replace(base, rank=choice.rank, archetypes=choice.archetypes)
    relevance = fit_relevance(judgements, vectors, base.mismatched_weights)
    data = Dataset.from_judgements(judgements, vectors, relevance)
    fit = Fit(data, options).run(_name_stage("fit", progress), checkpoint, "fit")
    return TunedModel(
        choice.apply(fit.build_reward_model(with_memory=with_memory), fit, fitter),
        choice,
        trials,
        len(held_out.users),
    )


class ChoiceSearch:
    """A search for the best choice on held-out users: rank, archetypes, tastes and the gate, in this order.

    Args:
        held_out: Held-out users.
        base: Options that are not chosen.
        progress: Callback that reports progress.
        checkpoint: Checkpoint for fits and trials.

    Attributes:
        trials: All trials, in order.
        losses: Log-loss of each trial, for each held-out user and fold.
    """

    def __init__(
        self,
        held_out: HeldOutUsers,
        base: FitOptions,
        progress: Progress,
        checkpoint: Checkpoint,
    ) -> None:
        self._held_out, self._base = held_out, base
        self._progress, self._checkpoint = progress, checkpoint
        relevance = fit_relevance(held_out.train, held_out.vectors, base.mismatched_weights)
        self._data = Dataset.from_judgements(held_out.train, held_out.vectors, relevance)
        self.losses: list[NDArray[np.float64]] = []
        self.trials: list[Trial] = []

    def choose(
        self, ranks: Sequence[int], declared: tuple[str, float] | None, gate: GateOption = 0
    ) -> Choice:
        """Return the best choice. One that personalizes must be measurably better than the first, which does not."""
        fits = [self._fit(rank) for rank in ranks]
        rewards = [self._held_out.build_reward_models(fit) for fit in fits]
        for rank, fit, folds in zip(ranks, fits, rewards, strict=True):
            self._run_trial(fit, folds, Choice(rank))
        best = _find_best(self.losses, range(len(ranks)), by_mean=declared is not None)
        fit, folds = fits[best], rewards[best]
        tried = [best]
        if self.trials[best].choice.rank and not declared:
            for number in ARCHETYPES:
                prior = build_population(fit.split_archetypes(number))
                grouped = [replace(reward, population=prior) for reward in folds]
                tried.append(
                    self._run_trial(fit, grouped, replace(self.trials[best].choice, archetypes=number))
                )
            best = _find_best(self.losses, tried)
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
        chosen = tried[-1] if declared else _find_best(self.losses, tried)
        if gate:
            chosen = self._choose_gate(
                fit, folds, chosen, GATE_SIZES if gate == "auto" else (gate,), forced=gate != "auto"
            )
        return self.trials[chosen].choice

    def _choose_gate(
        self, fit: Fit, folds: Sequence[RewardModel], ungated: int, sizes: Sequence[int], *, forced: bool
    ) -> int:
        """Try gates beside the choice of a trial, and return the number of the best trial."""
        fitters = [GateFitter(part, self._held_out.vectors) for part in self._held_out.split_train()]
        options = [(family, size) for family in GATED_FAMILIES for size in sizes]
        tried = [ungated]
        for number, (family, size) in enumerate(options):
            choice = replace(self.trials[ungated].choice, gate=size, gated=family)
            tried.append(self._run_trial(fit, folds, choice, fitters))
            self._progress("try gates", number + 1, len(options))
        if forced:
            return _find_best(self.losses, tried[1:], by_mean=True)
        return _find_best(self.losses, tried)

    def _fit(self, rank: int) -> Fit:
        options = replace(self._base, rank=rank, rounds=min(self._base.rounds, TRIAL_ROUNDS))
        stage = f"try rank {rank}"
        return Fit(self._data, options).run(_name_stage(stage, self._progress), self._checkpoint, stage)

    def _run_trial(
        self,
        fit: Fit,
        folds: Sequence[RewardModel],
        choice: Choice,
        gates: Sequence[GateFitter] | None = None,
    ) -> int:
        """Evaluate a choice, record the trial and return its number."""
        stage = f"trial {len(self.trials)}"
        saved = self._checkpoint.load(stage)
        if saved is None:
            fitters: Sequence[GateFitter | None] = gates or [None] * len(folds)
            rewards = [
                choice.apply(reward, fit, fitter) for reward, fitter in zip(folds, fitters, strict=True)
            ]
            forecast = Forecast(self._held_out.adapt(rewards))
            temperature = find_best_temperature(forecast)
            saved = {
                "temperature": np.array(temperature),
                "losses": _compute_losses(forecast.predict(temperature)),
            }
            self._checkpoint.save(stage, saved)
        losses = saved["losses"]
        self.losses.append(losses)
        gain = self.losses[0] - losses
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


def _name_stage(stage: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(stage, done, total)
