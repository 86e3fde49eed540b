"""Fitting a reward model to judgements: variational EM over users, items, the text prior and who is right."""

from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, Progress, ignore_progress
from penchant.models.fitting.assemble import assemble
from penchant.models.fitting.messages import Messages, item_messages, user_messages
from penchant.models.fitting.mixture import Mixture, split
from penchant.models.fitting.state import DTYPE, FitOptions, FitState
from penchant.models.fitting.text_fit import regress, tune
from penchant.models.fitting.variational import leading_directions, utilities
from penchant.models.taste.reward import RewardModel

__all__ = ["Fit", "FitOptions"]

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


class Fit(FitState):
    """A fit that can be run: rounds of variational EM.

    A round places the users, moves their mean into the base utility, whitens z and refits the population; then the items
    and the text prior behind them; then rating scales and whose labels are right.
    """

    def run(
        self, progress: Progress = ignore_progress, checkpoint: Checkpoint = NO_CHECKPOINT, stage: str = "fit"
    ) -> "Fit":
        """All rounds.

        Args:
            progress: Called after each round.
            checkpoint: Where the state is kept every few rounds; a run that was interrupted goes on from there.
            stage: Under which name.
        """
        total = CONSENSUS_ROUNDS + self.options.rounds
        r = self.restore(checkpoint.load(stage))
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
                checkpoint.save(stage, self.arrays(r))
        if not self.rounds_run:
            self.rounds_run = r - CONSENSUS_ROUNDS
            if self.options.archetypes > 1:
                self._run_archetypes(progress)
        checkpoint.save(stage, self.arrays(r))
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
        """The reward model of the current beliefs: see `assemble`."""
        return assemble(self, temperature=temperature, remember=remember, without=without)
