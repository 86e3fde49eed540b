"""Choosing rank and temperature on held-out train users and held-out train texts, then fitting on all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar

from penchant.models.dataset import Dataset
from penchant.models.evaluation import Adapted, Progress, Vectors, adapt, predict, silent
from penchant.models.fit import Fit, FitOptions
from penchant.models.judgements import Judgement
from penchant.models.reward import RewardModel
from penchant.models.split import Mode, Split, TestPair, split

RANKS: Final = (0, 1, 2, 4, 8)
INNER_SHOTS: Final = (0, 3, 10, 30)
INNER_SEEN: Final = 0.75
INNER_TRAIN: Final = 0.8
INNER_UNSEEN: Final = 300
MIN_INNER_USERS: Final = 20
"""With fewer held-out users than this nothing can be chosen: rank 0 and temperature 1, the safe default."""

TEMPERATURES: Final = (0.3, 3.0)


@dataclass(frozen=True)
class Trial:
    """What one rank was worth on held-out train users.

    Attributes:
        rank: Directions of taste.
        log_loss: Mean over users and shots.
        gain: Mean reduction of it against rank 0, paired by user.
        gain_error: Standard error of the gain.
    """

    rank: int
    log_loss: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class Tuned:
    """A fitted reward model and how it was chosen.

    Attributes:
        reward: Fitted on all train judgements.
        options: The options it was fitted with.
        trials: One per rank tried.
        held_out_users: How many users the choice rests on.
    """

    reward: RewardModel
    options: FitOptions
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
    progress: Progress = silent,
) -> Tuned:
    """Fits a reward model; rank and temperature are chosen within the given judgements.

    The smallest rank is taken whose held-out few-shot log-loss is within one standard error (paired by user) of the best.

    Args:
        judgements: Train judgements.
        vectors: Features of every (context, text) in them.
        mode: What the model is for: new texts (`cold`) or texts that recur (`warm`).
        options: Everything but the rank.
        ranks: Ranks to try, ascending.
        remember: Keep an item memory.
        progress: Called with stage, done, total.
    """
    base = options or FitOptions()
    inner = inner_split(judgements, mode)
    chosen, temperature, trials = 0, 1.0, ()
    if len(inner.test) >= MIN_INNER_USERS and inner.train:
        chosen, temperature, trials = _choose(inner, vectors, base, ranks, progress)
    final = replace(base, rank=chosen)
    fit = Fit(Dataset.of(judgements, vectors), final).run(_within("fit", progress))
    return Tuned(fit.reward(temperature=temperature, remember=remember), final, trials, len(inner.test))


def inner_split(judgements: Sequence[Judgement], mode: Mode) -> Split:
    """Held-out users and texts within train judgements, every source with an equal number of held-out users at most."""
    by_source: dict[str, list[Judgement]] = {}
    for j in judgements:
        by_source.setdefault(j.source, []).append(j)
    parts = [
        split(
            rows,
            mode,
            "inner",
            seen_users=len(rows),
            unseen_users=INNER_UNSEEN // len(by_source),
            seen_share=INNER_SEEN,
            train_share=INNER_TRAIN,
        )
        for rows in by_source.values()
    ]
    # A user of two sources is held out in both (the split goes by name), and evaluated in the first.
    support: dict[str, list[Judgement]] = {}
    test: dict[str, list[TestPair]] = {}
    for part in parts:
        support = {**part.support, **support}
        test = {**part.test, **test}
    return Split([j for part in parts for j in part.train], support, test)


def _choose(
    inner: Split, vectors: Vectors, base: FitOptions, ranks: Sequence[int], progress: Progress
) -> tuple[int, float, tuple[Trial, ...]]:
    used = {(p.context, t) for pairs in inner.test.values() for p in pairs for t in (p.better, p.worse)}
    used |= {(j.context, t) for rows in inner.support.values() for j in rows for t in j.texts}
    needed = {item: vectors[item] for item in sorted(used)}
    data = Dataset.of(inner.train, vectors)
    losses, tried = [], {}
    for rank in ranks:
        fit = Fit(data, replace(base, rank=rank)).run(_within(f"try rank {rank}", progress))
        reward = fit.reward()
        adapted = adapt(reward, needed, inner.support, inner.test, shots=INNER_SHOTS)
        temperature = best_temperature(reward, adapted)
        losses.append(_user_losses(replace(reward, temperature=temperature), adapted))
        tried[rank] = temperature
        if len(losses) > 2 and losses[-1].mean() > losses[-2].mean() > losses[-3].mean():
            break
    table = np.stack(losses)
    best = int(table.mean(axis=1).argmin())
    chosen = best
    for i in range(best, -1, -1):
        difference = table[i] - table[best]
        if difference.mean() <= difference.std(ddof=1) / len(difference) ** 0.5:
            chosen = i
    gains = table[0] - table
    trials = tuple(
        Trial(rank, float(loss.mean()), float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5))
        for rank, loss, gain in zip(tried, table, gains, strict=True)
    )
    rank = trials[chosen].rank
    return rank, tried[rank], trials


def best_temperature(reward: RewardModel, adapted: Sequence[Adapted]) -> float:
    """Temperature of least pooled log-loss over all shots."""

    def loss(log_temperature: float) -> float:
        found = predict(replace(reward, temperature=float(np.exp(log_temperature))), adapted)
        return float(np.mean([-np.log(np.maximum(p, 1e-12)).mean() for p in found.better.values()]))

    low, high = np.log(TEMPERATURES)
    return float(
        np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.02}).x)
    )


def _user_losses(
    reward: RewardModel, adapted: Sequence[Adapted]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`[n_users]` mean log-loss over the shots with personal judgements."""
    found = predict(reward, adapted)
    counts = np.bincount(found.users)
    per_shot = [
        np.bincount(found.users, -np.log(np.maximum(p, 1e-12))) / counts
        for k, p in found.better.items()
        if k > 0
    ]
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = np.mean(per_shot, axis=0)
    return mean


def _within(stage: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(stage, done, total)
