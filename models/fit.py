"""Fitting a reward model to judgements: variational EM over users, items, the text prior and who is right."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.attributes import ATTRIBUTE_NAMES
from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint
from penchant.models.dataset import Dataset
from penchant.models.items import Items
from penchant.models.likelihood import RatingScale
from penchant.models.mixture import Mixture, split
from penchant.models.population import Population
from penchant.models.progress import Progress, silent
from penchant.models.reward import DEFAULT_SOURCE, REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.text_fit import Regression, regress, tune
from penchant.models.text_prior import LinearTextPrior, Standardiser
from penchant.models.trust import Reliability
from penchant.models.variational import (
    RATING_NOISE,
    Factors,
    Messages,
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
        archetypes: Components of the mixture prior over users.
        rounds: Most rounds of EM after the consensus.
        tolerance: Stop when no utility of a judged cell moves by more than this share of their spread.
        seed: Of the randomised SVD that the directions start from, of archetypes and of inducing texts.
        device: Where tensors live; `auto` is CUDA where there is one.
    """

    rank: int = 4
    archetypes: int = 1
    rounds: int = 24
    tolerance: float = 2e-3
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "cpu"


CONSENSUS_ROUNDS: Final = 4
ARCHETYPE_ROUNDS: Final = 6
TUNED_ROUNDS: Final = (3, 9, 19, 31)
"""Rounds that re-tune the text prior's hyperparameters: not the first, which would switch true directions off."""

TUNED_REACH: Final = 2.0
"""How far a log hyperparameter may move at once: in five free steps residual variances went to e⁻¹⁴, where nothing pulls
them back, and new texts looked certain."""

TRUSTING_ROUNDS: Final = 3
"""Rounds before labels are doubted: a model that knows nothing yet would call the surprising ones wrong."""

SAVED_EVERY: Final = 5
UNCERTAINTY_RANK: Final = 64
"""Directions kept of what is known about the text prior's weights: with 64 of 425 the mean variance of a new text's base
utility is 4 % too large, and log-loss the same to 1e-4."""

DTYPE: Final = torch.float64


class Fit:
    """State of a fit: beliefs about users and items, the population, the text prior, rating scales, reliability.

    Attributes:
        rounds_run: Rounds until utilities settled, after `run`.
    """

    rounds_run = 0

    def __init__(self, data: Dataset, options: FitOptions) -> None:
        self.options = options
        self.device = _device(options.device)
        self.data = data = data.to(self.device)
        n_attributes = len(ATTRIBUTE_NAMES)
        n_embedded = data.vectors.shape[1] - n_attributes
        self.standardiser = Standardiser.of(
            data.vectors, blocks=(n_embedded, n_attributes), seed=options.seed
        )
        self.x = torch.from_numpy(self.standardiser(data.vectors).astype(np.float32)).to(self.device)
        basis = self.standardiser.basis
        widths = [n_embedded, n_attributes, *([len(basis.inducing)] if basis else []), 1]
        self.blocks = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths)).to(self.device)
        k = self.k = options.rank
        width = 2 + k
        n_items, n_users = len(data.keys), len(data.users)
        self.items = Factors(
            self._zeros(n_items, width), self._zeros(n_items, width, width), [0, *range(2, width)]
        )
        self.items.mean[:, 1] = 1.0
        self.users = Factors(
            self._zeros(n_users, width), self._zeros(n_users, width, width), list(range(1, width))
        )
        self.users.mean[:, 0] = 1.0
        self.mixture = Mixture.single(torch.eye(width - 1, dtype=DTYPE, device=self.device))
        self.scales = RatingScales.of(data)
        self.reliability = Reliability(data)
        m = 1 + k
        start = [
            np.log(0.3 / widths[0]),
            np.log(0.3 / widths[0]),
            *([np.log(0.1)] if basis else []),
            np.log(0.3),
        ]
        self.hyper = [np.array(start) for _ in range(m)]
        # Per coordinate: what the judgements say of it, and how precisely.
        self.told = self._zeros(2, m, n_items)
        self.text_mean = self._zeros(n_items, m)
        self.residual = torch.full((m,), 0.3, dtype=DTYPE, device=self.device)

    def run(
        self, progress: Progress = silent, checkpoint: Checkpoint = NO_CHECKPOINT, stage: str = "fit"
    ) -> "Fit":
        """All rounds.

        Args:
            progress: Called after each round.
            checkpoint: Where the state is kept every few rounds; a run that was interrupted goes on from there.
            stage: Under which name.
        """
        total = CONSENSUS_ROUNDS + self.options.rounds
        r = self._restore(checkpoint.load(stage))
        settled = self.rounds_run > 0
        while r < total and not settled:
            if r == CONSENSUS_ROUNDS:
                self._start_directions()
            before = self._judged_utilities()
            late = r - CONSENSUS_ROUNDS
            self._round(
                tuned=late in TUNED_ROUNDS or r == CONSENSUS_ROUNDS - 1,
                active=1 if late < 0 else 1 + self.k,
                doubting=late >= TRUSTING_ROUNDS,
            )
            settled = late > TUNED_ROUNDS[1] and self._change_since(before) < self.options.tolerance
            r += 1
            progress("consensus" if late < 0 else "directions", r, total)
            if r % SAVED_EVERY == 0 and not settled:
                checkpoint.save(stage, self._state(r))
        if not self.rounds_run:
            self.rounds_run = r - CONSENSUS_ROUNDS
            if self.options.archetypes > 1:
                self._run_archetypes(progress)
        checkpoint.save(stage, self._state(r))
        return self

    def _start_directions(self) -> None:
        if not self.k or not len(self.data):
            return
        rank, seed = self.k, self.options.seed
        z, v = leading_directions(self.data, self.users, self.items, self.scales, rank=rank, seed=seed)
        found = slice(2, 2 + z.shape[1])
        self.users.mean[:, found], self.items.mean[:, found] = z, v

    def _run_archetypes(self, progress: Progress) -> None:
        self.mixture = self.archetypes(self.options.archetypes)
        for r in range(ARCHETYPE_ROUNDS):
            self._round(tuned=False, active=1 + self.k, doubting=True)
            progress("archetypes", r + 1, ARCHETYPE_ROUNDS)

    def archetypes(self, number: int) -> Mixture:
        """A mixture prior of so many archetypes for the users as they are now placed; the fit stays as it is."""
        if number == 1:
            return self.mixture
        return split(self._user_messages(), self.mixture, number, seed=self.options.seed)

    def _round(self, *, tuned: bool, active: int, doubting: bool) -> None:
        self._update_users(active)
        self._update_items(active, tuned=tuned)
        if len(self.data.ratings):
            self.scales.update(self.data, utilities(self.users, self.items, self.data.ratings))
        if doubting:
            self.reliability.update(self.users, self.items)

    def _user_messages(self) -> Messages:
        return user_messages(self.data, self.users, self.items, self.scales, self.reliability.trust)

    def _update_users(self, active: int) -> None:
        """Places the users, moves their mean into the base utility, whitens z, and refits the population."""
        placed = self.mixture.place(self._user_messages())
        mean, cov = placed.moments
        shift = mean.mean(0)
        self.items.mean[:, 0] += self.items.mean[:, 1:] @ shift
        self.text_mean[:, 0] += shift[0]
        change = torch.eye(len(shift), dtype=DTYPE, device=self.device)
        if active > 1:
            self.text_mean[:, 0] += self.text_mean[:, 1:] @ shift[1:]
            apart = (mean - shift)[:, 1:]
            second = cov[:, 1:, 1:].mean(0) + apart.T @ apart / len(apart)
            root = torch.linalg.cholesky(second + 1e-9 * torch.eye(self.k, dtype=DTYPE, device=self.device))
            change[1:, 1:] = torch.linalg.inv(root)
            grow = torch.eye(2 + self.k, dtype=DTYPE, device=self.device)
            grow[2:, 2:] = root.T
            self.items.mean = self.items.mean @ grow.T
            self.items.cov = grow @ self.items.cov @ grow.T
            self.text_mean[:, 1:] = self.text_mean[:, 1:] @ root
        placed = placed.moved(shift, change)
        self.users.mean[:, 1:], self.users.cov[:, 1:, 1:] = placed.moments
        refitted = self.mixture.refitted(placed)
        if active == 1:  # z is not learned yet: its prior stays
            cov = self.mixture.covs.clone()
            cov[:, 0, 0] = refitted.covs[:, 0, 0]
            refitted = Mixture(refitted.weights, refitted.means, cov)
        refitted.covs[:, 0, 0].clamp_min_(1e-4)
        self.mixture = refitted

    def _update_items(self, active: int, *, tuned: bool) -> None:
        messages = item_messages(self.data, self.users, self.items, self.scales, self.reliability.trust)
        free = self.items.free
        for j in range(active):
            precision = messages.precision[:, j, j]
            current = self.items.mean[:, free].clone()
            current[:, j] = 0
            target = (
                messages.linear[:, j] - (messages.precision[:, j] * current).sum(1)
            ) / precision.clamp_min(1e-12)
            if tuned:
                self.hyper[j] = tune(
                    self.x, self.blocks, target, precision, self.hyper[j], max_steps=5, reach=TUNED_REACH
                )
            found = regress(self.x, self.blocks, target, precision, self.hyper[j])
            self.told[0, j], self.told[1, j] = target, precision
            self.text_mean[:, j] = self.x.double() @ found.mean
            self.residual[j] = found.residual_variance
        prior_precision = torch.diag(1 / self.residual)
        mean, cov = messages.posterior(prior_precision, self.text_mean / self.residual)
        if active < len(free):
            mean[:, active:], cov[:, active:], cov[:, :, active:] = 0, 0, 0
        rows = torch.tensor(free, device=self.device)
        self.items.mean[:, rows] = mean
        self.items.cov[:, rows[:, None], rows] = cov

    def _judged_utilities(self) -> Tensor:
        return torch.cat([utilities(self.users, self.items, told) for told in self.data.kinds])

    def _change_since(self, before: Tensor) -> float:
        """Spread of the change of judged utilities over their spread; 0 where there is nothing."""
        if not len(before):
            return 0.0
        now = self._judged_utilities()
        return float((now - before).std(correction=0) / now.std(correction=0).clamp_min(1e-9))

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=DTYPE, device=self.device)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that a round reads and changes."""
        return {
            "items.mean": self.items.mean,
            "items.cov": self.items.cov,
            "users.mean": self.users.mean,
            "users.cov": self.users.cov,
            "mixture.weights": self.mixture.weights,
            "mixture.means": self.mixture.means,
            "mixture.covs": self.mixture.covs,
            "scales.offset": self.scales.offset,
            "scales.slope": self.scales.slope,
            "told": self.told,
            "text_mean": self.text_mean,
            "residual": self.residual,
            **self.reliability.state(),
        }

    def _state(self, r: int) -> dict[str, NDArray[Any]]:
        return {
            **{name: tensor.cpu().numpy() for name, tensor in self._tensors().items()},
            "hyper": np.stack(self.hyper),
            "round": np.array([r, self.rounds_run]),
        }

    def _restore(self, state: Mapping[str, NDArray[Any]] | None) -> int:
        """Takes up a saved state; returns how many rounds it had."""
        if state is None:
            return 0
        found = {name: torch.from_numpy(state[name].copy()).to(self.device) for name in self._tensors()}
        for side in (self.items, self.users):
            name = "items" if side is self.items else "users"
            side.mean, side.cov = found[f"{name}.mean"], found[f"{name}.cov"]
        self.mixture = Mixture(found["mixture.weights"], found["mixture.means"], found["mixture.covs"])
        self.scales = RatingScales(found["scales.offset"], found["scales.slope"])
        self.told, self.text_mean, self.residual = found["told"], found["text_mean"], found["residual"]
        self.reliability.restore(found)
        self.hyper = list(state["hyper"])
        r, self.rounds_run = map(int, state["round"])
        return r

    def content_directions(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Principal components of the embedding: directions `[d, p]` of x with unit variance, and their shares `[p]`.

        p is `number`, or fewer where the embedding varies in fewer directions. The shares sum to 1.
        """
        variances, directions = self._embedded_components
        p = min(number, int((variances > 1e-12 * max(variances.max(initial=0.0), 1e-18)).sum()))
        loadings = np.zeros((self.x.shape[1], p))
        loadings[: len(directions)] = directions[:, :p] / variances[:p] ** 0.5
        return loadings, variances[:p] / variances[:p].sum()

    @cached_property
    def _embedded_components(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variances, descending, and eigenvectors of the covariance of the standardised embedding."""
        x = self.x[:, : int((self.blocks == 0).sum())].double().cpu().numpy()
        values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, bias=True).reshape(x.shape[1], x.shape[1]))
        return values[::-1].clip(min=0.0), vectors[:, ::-1]

    def reward(
        self,
        *,
        temperature: float = 1.0,
        remember: bool = True,
        without: NDArray[np.bool_] | None = None,
    ) -> RewardModel:
        """The reward model of the current beliefs.

        Args:
            temperature: Of probabilities.
            remember: Keep an item memory.
            without: `[n_items]` items that the text prior and the memory must not know, for cross-validation over texts.
        """
        kept = np.ones(len(self.data.keys), np.bool_) if without is None else ~without
        mask = torch.from_numpy(kept).to(self.told)
        found = [
            regress(self.x, self.blocks, self.told[0, j], self.told[1, j] * mask, self.hyper[j])
            for j in range(1 + self.k)
        ]
        text_prior = LinearTextPrior(
            self.standardiser,
            torch.stack([r.mean for r in found], 1).cpu().numpy(),
            torch.stack([r.prior_variance for r in found], 1).cpu().numpy(),
            np.stack([_learned(r) for r in found]),
            self.residual.cpu().numpy().copy(),
        )
        free = self.items.free
        means = self.items.mean[:, free].cpu().numpy()
        variances = self.items.cov.diagonal(dim1=1, dim2=2)[:, free].cpu().numpy()
        reference = np.concatenate([[np.median(means[:, 0])], means[:, 1:].mean(0)])
        memory = ItemMemory.empty(1 + self.k)
        if remember:
            keys = [key for key, keep in zip(self.data.keys, kept, strict=True) if keep]
            memory = ItemMemory({key: i for i, key in enumerate(keys)}, means[kept], variances[kept])
        return RewardModel(
            text_prior=text_prior,
            population=population(self.mixture),
            temperature=temperature,
            reference=Items(
                reference[:1],
                np.zeros(1),
                reference[None, 1:],
                np.zeros((1, len(reference) - 1)),
                (REFERENCE_KEY,),
            ),
            scales=self._rating_scales(),
            loadings=np.zeros((self.x.shape[1], 0)),
            memory=memory,
            flips=self._flips(),
        )

    def _rating_scales(self) -> dict[str, RatingScale]:
        rated = set(self.data.ratings.source.tolist())
        scales = {
            name: RatingScale(float(o), float(b), float(b) * RATING_NOISE**0.5)
            for s, (name, o, b) in enumerate(
                zip(self.data.sources, self.scales.offset, self.scales.slope, strict=True)
            )
            if s in rated
        }
        return {**scales, DEFAULT_SOURCE: _default_scale(list(scales.values()))}

    def _flips(self) -> dict[str, float]:
        """By source of votes and pairs; `default` is the mean, for one that nobody fitted."""
        doubted = set(torch.cat([self.data.votes.source, self.data.pairs.source]).tolist())
        rates = self.reliability.source_flips.tolist()
        flips = {name: rates[s] for s, name in enumerate(self.data.sources) if s in doubted}
        return {DEFAULT_SOURCE: float(np.mean(list(flips.values()))), **flips} if flips else {}


def population(mixture: Mixture) -> Population:
    """The fitted mixture as the prior that users are served with."""
    return Population(
        mixture.weights.cpu().numpy(),
        mixture.means.cpu().numpy(),
        torch.linalg.inv(mixture.covs).cpu().numpy(),
    )


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _learned(regression: Regression) -> NDArray[np.float32]:
    """L `[d, r]` with S ≈ diag(prior) − LLᵀ, the r largest directions of what was learned."""
    taken = torch.diag(regression.prior_variance) - regression.cov
    values, vectors = torch.linalg.eigh(taken)
    values, vectors = values[-UNCERTAINTY_RANK:].clamp_min(0), vectors[:, -UNCERTAINTY_RANK:]
    root: NDArray[np.float32] = (vectors * values.sqrt()).float().cpu().numpy()
    return root


def _default_scale(known: list[RatingScale]) -> RatingScale:
    """For a source nobody fitted: the average of those that were, else a slope that spans the scale in ±2 logits."""
    if not known:
        return RatingScale(0.0, 0.5, 0.5 * RATING_NOISE**0.5)
    offset, slope = (float(np.mean([getattr(s, a) for s in known])) for a in ("offset", "slope"))
    return RatingScale(offset, slope, slope * RATING_NOISE**0.5)
