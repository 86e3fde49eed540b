"""Fitting a reward model to judgements: variational EM over users, items and the text prior."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.attributes import ATTRIBUTE_NAMES
from penchant.models.dataset import Dataset
from penchant.models.items import Items
from penchant.models.likelihood import RatingScale
from penchant.models.population import Population
from penchant.models.progress import Progress, silent
from penchant.models.reward import DEFAULT_SOURCE, REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.text_fit import Regression, regress, tune
from penchant.models.text_prior import LinearTextPrior, Standardiser
from penchant.models.variational import (
    RATING_NOISE,
    Factors,
    RatingScales,
    item_messages,
    leading_directions,
    user_messages,
    utilities,
)


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Attributes:
        rank: Directions of taste k.
        rounds: Most rounds of EM after the consensus.
        tolerance: Stop when no utility of a judged cell moves by more than this share of their spread.
        seed: Of the randomised SVD that the directions start from.
    """

    rank: int = 4
    rounds: int = 40
    tolerance: float = 2e-3
    seed: int = 0


CONSENSUS_ROUNDS: Final = 4
TUNED_ROUNDS: Final = (3, 9, 19, 31)
"""Rounds that re-tune the text prior's hyperparameters: not the first, which would switch true directions off."""

UNCERTAINTY_RANK: Final = 64
"""Directions kept of what is known about the text prior's weights: with 64 of 425 the mean variance of a new text's base
utility is 4 % too large, and log-loss the same to 1e-4."""

DTYPE: Final = torch.float64


class Fit:
    """State of a fit: beliefs about users and items, the text prior, the rating scales.

    Attributes:
        rounds_run: Rounds until utilities settled, after `run`.
    """

    rounds_run = 0

    def __init__(self, data: Dataset, options: FitOptions) -> None:
        self.data, self.options = data, options
        self.standardiser = Standardiser.of(data.vectors)
        self.x = torch.from_numpy(self.standardiser(data.vectors).astype(np.float32))
        dim = self.x.shape[1]
        n_attributes = len(ATTRIBUTE_NAMES)
        self.blocks = torch.tensor([0] * (dim - 1 - n_attributes) + [1] * n_attributes + [2])
        k = self.k = options.rank
        width = 2 + k
        n_items, n_users = len(data.keys), len(data.users)
        self.items = Factors(
            torch.zeros(n_items, width, dtype=DTYPE),
            torch.zeros(n_items, width, width, dtype=DTYPE),
            [0, *range(2, 2 + k)],
        )
        self.items.mean[:, 1] = 1.0
        self.users = Factors(
            torch.zeros(n_users, width, dtype=DTYPE),
            torch.zeros(n_users, width, width, dtype=DTYPE),
            list(range(1, width)),
        )
        self.users.mean[:, 0] = 1.0
        self.user_cov = torch.eye(width - 1, dtype=DTYPE)  # prior covariance of the free coordinates
        self.scales = RatingScales.of(data)
        m = 1 + k
        self.hyper = [np.array([np.log(0.3 / dim), np.log(0.3 / dim), np.log(0.3)]) for _ in range(m)]
        nothing = torch.zeros(n_items, dtype=DTYPE)
        # Per coordinate: what the judgements say of it, and how precisely.
        self.told = [(nothing, nothing)] * m
        self.text_mean = torch.zeros(n_items, m, dtype=DTYPE)
        self.residual = torch.full((m,), 0.3, dtype=DTYPE)

    def run(self, progress: Progress = silent) -> "Fit":
        """All rounds."""
        total = CONSENSUS_ROUNDS + self.options.rounds
        for r in range(CONSENSUS_ROUNDS):
            self._round(tuned=r == CONSENSUS_ROUNDS - 1, active=1)
            progress("consensus", r + 1, total)
        if self.k and len(self.data):
            z, v = leading_directions(
                self.data, self.users, self.items, self.scales, rank=self.k, seed=self.options.seed
            )
            found = slice(2, 2 + z.shape[1])
            self.users.mean[:, found], self.items.mean[:, found] = z, v
        previous = self._judged_utilities()
        for r in range(self.options.rounds):
            self._round(tuned=r in TUNED_ROUNDS, active=1 + self.k)
            current = self._judged_utilities()
            change = _relative_change(previous, current)
            previous = current
            progress("directions", CONSENSUS_ROUNDS + r + 1, total)
            if change < self.options.tolerance and r > TUNED_ROUNDS[1]:
                break
        self.rounds_run = r + 1
        return self

    def _round(self, *, tuned: bool, active: int) -> None:
        self._update_users()
        if active > 1:
            self._whiten()
        else:
            self._centre()
        self._update_population(active)
        self._update_items(active, tuned=tuned)
        if len(self.data.rated):
            self.scales.update(self.data, utilities(self.users, self.items, self.data.rated))

    def _update_users(self) -> None:
        messages = user_messages(self.data, self.users, self.items, self.scales)
        prior = torch.linalg.inv(self.user_cov)
        mean, cov = messages.posterior(prior, torch.zeros(len(prior), dtype=DTYPE))
        self.users.mean[:, 1:] = mean
        self.users.cov[:, 1:, 1:] = cov

    def _centre(self) -> None:
        """Moves the mean of the users into the base utility: E y = 0."""
        mu = self.users.mean[:, 1:].mean(0)
        self.items.mean[:, 0] += self.items.mean[:, 1:] @ mu
        self.text_mean[:, 0] += mu[0]
        self.users.mean[:, 1:] -= mu

    def _whiten(self) -> None:
        """Rescales z to unit second moment over users, and v with it: Cov z = I."""
        self._centre()
        z = slice(2, 2 + self.k)
        second = self.users.second[:, z, z].mean(0)
        root = torch.linalg.cholesky(second + 1e-9 * torch.eye(self.k, dtype=DTYPE))
        inverse = torch.linalg.inv(root)
        full_user = torch.eye(self.users.mean.shape[1], dtype=DTYPE)
        full_item = full_user.clone()
        full_user[z, z], full_item[z, z] = inverse, root.T
        for side, change in ((self.users, full_user), (self.items, full_item)):
            side.mean = side.mean @ change.T
            side.cov = change @ side.cov @ change.T
        self.text_mean[:, 1:] = self.text_mean[:, 1:] @ root

    def _update_population(self, active: int) -> None:
        second = self.users.second[:, 1:, 1:].mean(0)
        if active > 1:
            self.user_cov = second
        else:
            self.user_cov[0, 0] = second[0, 0]
        self.user_cov[0, 0].clamp_min_(1e-4)

    def _update_items(self, active: int, *, tuned: bool) -> None:
        messages = item_messages(self.data, self.users, self.items, self.scales)
        free = self.items.free
        for j in range(active):
            precision = messages.precision[:, j, j]
            current = self.items.mean[:, free].clone()
            current[:, j] = 0
            target = (
                messages.linear[:, j] - (messages.precision[:, j] * current).sum(1)
            ) / precision.clamp_min(1e-12)
            if tuned:
                self.hyper[j] = tune(self.x, self.blocks, target, precision, self.hyper[j], max_steps=5)
            found = regress(self.x, self.blocks, target, precision, self.hyper[j])
            self.told[j] = (target, precision)
            self.text_mean[:, j] = self.x.double() @ found.mean
            self.residual[j] = found.residual_variance
        prior_precision = torch.diag(1 / self.residual)
        mean, cov = messages.posterior(prior_precision, self.text_mean / self.residual)
        if active < len(free):
            mean[:, active:], cov[:, active:], cov[:, :, active:] = 0, 0, 0
        rows = torch.tensor(free)
        self.items.mean[:, rows] = mean
        self.items.cov[:, rows[:, None], rows] = cov

    def _judged_utilities(self) -> Tensor:
        data = self.data
        cells = [data.rated, data.voted, data.compared[:, :2], data.compared[:, [0, 2]]]
        return utilities(self.users, self.items, torch.cat(cells))

    def reward(
        self, *, temperature: float = 1.0, remember: bool = True, without: NDArray[np.bool_] | None = None
    ) -> RewardModel:
        """The reward model of the current beliefs.

        Args:
            temperature: Of probabilities.
            remember: Keep an item memory.
            without: `[n_items]` items that the text prior and the memory must not know, for cross-validation over texts.
        """
        kept = np.ones(len(self.data.keys), np.bool_) if without is None else ~without
        mask = torch.from_numpy(kept).to(DTYPE)
        found = [
            regress(self.x, self.blocks, target, precision * mask, hyper)
            for (target, precision), hyper in zip(self.told, self.hyper, strict=True)
        ]
        text_prior = LinearTextPrior(
            self.standardiser,
            torch.stack([r.mean for r in found], 1).numpy(),
            torch.stack([r.prior_variance for r in found], 1).numpy(),
            np.stack([_learned(r) for r in found]),
            self.residual.numpy().copy(),
        )
        free = self.items.free
        means = self.items.mean[:, free].numpy()
        variances = self.items.cov.diagonal(dim1=1, dim2=2)[:, free].numpy()
        reference = np.concatenate([[np.median(means[:, 0])], means[:, 1:].mean(0)])
        slopes = {
            name: RatingScale(float(o), float(b), float(b) * RATING_NOISE**0.5)
            for name, o, b in zip(self.data.sources, self.scales.offset, self.scales.slope, strict=True)
        }
        slopes[DEFAULT_SOURCE] = _default_scale(list(slopes.values()))
        q = len(self.user_cov)
        memory = (
            ItemMemory(
                {
                    key: i
                    for i, key in enumerate(
                        key for key, keep in zip(self.data.keys, kept, strict=True) if keep
                    )
                },
                means[kept],
                variances[kept],
            )
            if remember
            else ItemMemory.empty(1 + self.k)
        )
        return RewardModel(
            text_prior=text_prior,
            population=Population(
                np.ones(1), np.zeros((1, q)), torch.linalg.inv(self.user_cov).numpy()[None]
            ),
            temperature=temperature,
            reference=Items(
                reference[:1],
                np.zeros(1),
                reference[None, 1:],
                np.zeros((1, len(reference) - 1)),
                (REFERENCE_KEY,),
            ),
            scales=slopes,
            loadings=np.zeros((self.x.shape[1], 0)),
            memory=memory,
        )


def _relative_change(previous: Tensor, current: Tensor) -> float:
    """Spread of the change over the spread of what changed; 0 where there is nothing."""
    if not len(current):
        return 0.0
    return float((current - previous).std(correction=0) / current.std(correction=0).clamp_min(1e-9))


def _learned(regression: Regression) -> NDArray[np.float32]:
    """L `[d, r]` with S ≈ diag(prior) − LLᵀ, the r largest directions of what was learned."""
    taken = torch.diag(regression.prior_variance) - regression.cov
    values, vectors = torch.linalg.eigh(taken)
    values, vectors = values[-UNCERTAINTY_RANK:].clamp_min(0), vectors[:, -UNCERTAINTY_RANK:]
    root: NDArray[np.float32] = (vectors * values.sqrt()).float().numpy()
    return root


def _default_scale(known: list[RatingScale]) -> RatingScale:
    """For a source nobody fitted: the average of those that were, else a slope that spans the scale in ±2 logits."""
    if not known:
        return RatingScale(0.0, 0.5, 0.5 * RATING_NOISE**0.5)
    offset, slope = (float(np.mean([getattr(s, a) for s in known])) for a in ("offset", "slope"))
    return RatingScale(offset, slope, slope * RATING_NOISE**0.5)
