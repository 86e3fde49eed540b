"""Fitting time of penchant and of LoRe's training on the same judgements: alternating runs, ratio of medians.

penchant is timed twice: one fit of rank 4, and the whole of `fit_reward`, which fits many models to choose among them.
LoRe (B = 5, 500 steps, without any choice) is timed in three implementations of the same computation:

- `loop`: like its published class `LoRe`; every step is a Python loop over users with automatic differentiation.
- `packed`: the feature differences of all pairs in one matrix, with one product per step.
- `shared`: as `benchmarks.peers.lore`; products over the texts, which pairs share, with gradients written by hand.

A step always costs the same, so the two slow implementations are timed over a few steps and multiplied.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softmax

from benchmarks.peers.comparisons import TRAIN_PAIRS, Catalogue, Comparisons
from benchmarks.peers.lore import SCALE, train_basis
from benchmarks.personalization.task import Task
from penchant.models.evaluation.split import Mode, group_by_user
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.tuning import fit_reward

SETS: Final[tuple[tuple[str, Mode], ...]] = (("polis_opendata_en", "cold"), ("ukp_convarg1", "cold"))
ROUNDS: Final = 3
RANK: Final = 4
BASES: Final = 5
RATE: Final = 0.5
STEPS: Final = 500
TIMED_STEPS: Final = 3


def measure(task: Task, *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the seconds of every implementation, by round, and the ratios of medians."""
    train = task.parts.train
    catalogue = Catalogue(task.vectors, train)
    pairs = catalogue.comparisons(group_by_user(train), most=TRAIN_PAIRS)
    x = catalogue.x
    ways: dict[str, Callable[[], float]] = {
        "penchant, one fit of rank 4": lambda: _seconds(lambda: _fit(task)),
        "LoRe, shared": lambda: _seconds(lambda: list(train_basis(x, pairs, BASES, RATE, [STEPS]))),
        "LoRe, packed": lambda: STEPS / TIMED_STEPS * _seconds(lambda: _packed(x, pairs, TIMED_STEPS)),
        "LoRe, loop": lambda: STEPS / TIMED_STEPS * _seconds(lambda: _loop(x, pairs, TIMED_STEPS)),
        "penchant, all of fit_reward": lambda: _seconds(
            lambda: fit_reward(train, task.vectors, mode=task.mode)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(round(way(), 3))
            print(f"speed: {task.name}: {name}: {seconds[name][-1]} s", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "set": task.name,
        "split": task.mode,
        "threads": torch.get_num_threads(),
        "judgements": len(train),
        "users": pairs.n_users,
        "pairs": len(pairs),
        "seconds": seconds,
        "ratios": {
            f"{peer} / {ours}": round(medians[peer] / medians[ours], 2)
            for ours in ways
            if ours.startswith("penchant")
            for peer in ways
            if peer.startswith("LoRe")
        },
    }


def _fit(task: Task) -> Fit:
    return Fit(Dataset.from_judgements(task.parts.train, task.vectors), FitOptions(rank=RANK)).run()


def _packed(x: Tensor, pairs: Comparisons, steps: int) -> None:
    """Train with the feature differences `[n_pairs, d]` in one matrix."""
    difference = x[pairs.winners] - x[pairs.losers]
    basis, logits, optimizer = _parameters(x, pairs)
    share = 1 / torch.bincount(pairs.users, minlength=pairs.n_users)[pairs.users]
    for _ in range(steps):
        optimizer.zero_grad()
        margin = ((difference @ basis) * softmax(logits, dim=1)[pairs.users]).sum(1) / SCALE
        torch.autograd.backward(-(share * logsigmoid(margin)).sum())
        optimizer.step()


def _loop(x: Tensor, pairs: Comparisons, steps: int) -> None:
    """Train with one product and one loss term per user, as published."""
    rows = [x[pairs.winners[mine]] - x[pairs.losers[mine]] for mine in _by_user(pairs)]
    basis, logits, optimizer = _parameters(x, pairs)
    for _ in range(steps):
        optimizer.zero_grad()
        rewards = basis @ softmax(logits, dim=1).T
        loss = torch.zeros(())
        for user, difference in enumerate(rows):
            if len(difference):
                loss = loss - logsigmoid(difference @ rewards[:, user] / SCALE).sum() / len(difference)
        torch.autograd.backward(loss)
        optimizer.step()


def _parameters(x: Tensor, pairs: Comparisons) -> tuple[Tensor, Tensor, torch.optim.Adam]:
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(x.shape[1], BASES, generator=generator).requires_grad_()
    logits = torch.randn(pairs.n_users, BASES, generator=generator).requires_grad_()
    return basis, logits, torch.optim.Adam([basis, logits], lr=RATE)


def _by_user(pairs: Comparisons) -> tuple[Tensor, ...]:
    counts = torch.bincount(pairs.users, minlength=pairs.n_users)
    return torch.split(torch.arange(len(pairs)), counts.tolist())


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
