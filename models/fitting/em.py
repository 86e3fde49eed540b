"""Fitting a reward model to judgements by variational EM over users, items, the text prior and label correctness."""

from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, Progress, ignore_progress
from penchant.models.fitting.assemble import assemble
from penchant.models.fitting.messages import Messages, compute_item_messages, compute_user_messages
from penchant.models.fitting.mixture import Mixture, fit_mixture
from penchant.models.fitting.state import DTYPE, FitOptions, FitState
from penchant.models.fitting.text_fit import fit_regression, tune_hyperparameters
from penchant.models.fitting.variational import compute_utilities, find_leading_directions
from penchant.models.taste.reward import RewardModel

__all__ = ["Fit", "FitOptions"]

CONSENSUS_ROUNDS: Final = 4
ARCHETYPE_ROUNDS: Final = 6
TUNED_ROUNDS: Final = (3, 9, 19, 31)
"""Rounds that tune the hyperparameters of the text prior. Tuned in the first rounds, it would drop true directions."""

TUNED_REACH: Final = 2.0
"""Largest change of a log hyperparameter in one round. Without it, residual variances fall to e⁻¹⁴ in five steps, where
nothing pulls them back, and the utilities of new texts look certain."""

TRUSTING_ROUNDS: Final = 3
"""Number of rounds in which all labels count as correct; an unfitted model would take unexpected labels for wrong."""

SAVED_EVERY: Final = 5
"""Number of rounds between two checkpoints."""


class Fit(FitState):
    """A fit by rounds of variational EM.

    A round first updates the users, moves their mean into the base utility, whitens z and refits the population. It then
    updates the items and the text prior, and last the rating scales and the reliability of labels.
    """

    def run(
        self, progress: Progress = ignore_progress, checkpoint: Checkpoint = NO_CHECKPOINT, stage: str = "fit"
    ) -> "Fit":
        """Run all rounds and return the fit itself.

        Args:
            progress: Callback that is called after each round.
            checkpoint: Checkpoint that receives the state every few rounds. An interrupted run resumes from it.
            stage: Name of the fit in the checkpoint.
        """
        total = CONSENSUS_ROUNDS + self.options.rounds
        r = self.restore(checkpoint.load(stage))
        settled = self.rounds_run > 0
        while r < total and not settled:
            if r == CONSENSUS_ROUNDS:
                self._start_directions()
            before = self._compute_judged_utilities()
            directions_round = r - CONSENSUS_ROUNDS
            self._run_round(
                tuned=directions_round in TUNED_ROUNDS or r == CONSENSUS_ROUNDS - 1,
                active=1 if directions_round < 0 else 1 + self.k,
                doubts_labels=directions_round >= TRUSTING_ROUNDS,
            )
            settled = (
                directions_round > TUNED_ROUNDS[1] and self._compute_change(before) < self.options.tolerance
            )
            r += 1
            progress("consensus" if directions_round < 0 else "directions", r, total)
            if r % SAVED_EVERY == 0 and not settled:
                checkpoint.save(stage, self.to_arrays(r))
        if not self.rounds_run:
            self.rounds_run = r - CONSENSUS_ROUNDS
            if self.options.archetypes > 1:
                self._run_archetypes(progress)
        checkpoint.save(stage, self.to_arrays(r))
        return self

    def _start_directions(self) -> None:
        if not self.k or not len(self.data):
            return
        rank, seed = self.k, self.options.seed
        z, v = find_leading_directions(self.data, self.users, self.items, self.scales, rank=rank, seed=seed)
        columns = slice(2, 2 + z.shape[1])
        self.users.mean[:, columns], self.items.mean[:, columns] = z, v

    def _run_archetypes(self, progress: Progress) -> None:
        self.mixture = self.split_archetypes(self.options.archetypes)
        for r in range(ARCHETYPE_ROUNDS):
            self._run_round(tuned=False, active=1 + self.k, doubts_labels=True)
            progress("archetypes", r + 1, ARCHETYPE_ROUNDS)

    def split_archetypes(self, number: int) -> Mixture:
        """Return a mixture prior with that number of archetypes for the current users, without changing the fit."""
        if number == 1:
            return self.mixture
        return fit_mixture(self._compute_user_messages(), self.mixture, number, seed=self.options.seed)

    def _run_round(self, *, tuned: bool, active: int, doubts_labels: bool) -> None:
        self._update_users(active)
        self._update_items(active, tuned=tuned)
        if len(self.data.ratings):
            self.scales.update(self.data, compute_utilities(self.users, self.items, self.data.ratings))
        if doubts_labels:
            self.reliability.update(self.users, self.items)

    def _compute_user_messages(self) -> Messages:
        return compute_user_messages(self.data, self.users, self.items, self.scales, self.reliability.trust)

    def _update_users(self, active: int) -> None:
        """Update the users, move their mean into the base utility, whiten z, and refit the population."""
        posteriors = self.mixture.compute_posteriors(self._compute_user_messages())
        mean, cov = posteriors.moments
        shift = mean.mean(0)
        self.items.mean[:, 0] += self.items.mean[:, 1:] @ shift
        self.text_mean[:, 0] += shift[0]
        change = torch.eye(len(shift), dtype=DTYPE, device=self.device)
        if active > 1:
            self.text_mean[:, 0] += self.text_mean[:, 1:] @ shift[1:]
            centred = (mean - shift)[:, 1:]
            second = cov[:, 1:, 1:].mean(0) + centred.T @ centred / len(centred)
            root = torch.linalg.cholesky(second + 1e-9 * torch.eye(self.k, dtype=DTYPE, device=self.device))
            change[1:, 1:] = torch.linalg.inv(root)
            grow = torch.eye(2 + self.k, dtype=DTYPE, device=self.device)
            grow[2:, 2:] = root.T
            self.items.mean = self.items.mean @ grow.T
            self.items.cov = grow @ self.items.cov @ grow.T
            self.text_mean[:, 1:] = self.text_mean[:, 1:] @ root
        posteriors = posteriors.transform(shift, change)
        self.users.mean[:, 1:], self.users.cov[:, 1:, 1:] = posteriors.moments
        refitted = self.mixture.refit(posteriors)
        if active == 1:  # the prior of z stays while z is not learned
            cov = self.mixture.covs.clone()
            cov[:, 0, 0] = refitted.covs[:, 0, 0]
            refitted = Mixture(refitted.weights, refitted.means, cov)
        refitted.covs[:, 0, 0].clamp_min_(1e-4)
        self.mixture = refitted

    def _update_items(self, active: int, *, tuned: bool) -> None:
        messages = compute_item_messages(
            self.data, self.users, self.items, self.scales, self.reliability.trust
        )
        free = self.items.free
        for j in range(active):
            precision = messages.precision[:, j, j]
            current = self.items.mean[:, free].clone()
            current[:, j] = 0
            target = (
                messages.linear[:, j] - (messages.precision[:, j] * current).sum(1)
            ) / precision.clamp_min(1e-12)
            x = self.get_regressors(j)
            if j == 0:  # the regression explains what the match does not
                target = target - self.known_base
            if tuned:
                self.hyper[j] = tune_hyperparameters(
                    x, self.blocks, target, precision, self.hyper[j], max_steps=5, reach=TUNED_REACH
                )
            regression = fit_regression(x, self.blocks, target, precision, self.hyper[j])
            self.coordinate_messages[0, j], self.coordinate_messages[1, j] = target, precision
            self.text_mean[:, j] = x.double() @ regression.mean
            if j == 0:
                self.text_mean[:, 0] += self.known_base
            self.residual[j] = regression.residual_variance
        prior_precision = torch.diag(1 / self.residual)
        mean, cov = messages.compute_posterior(prior_precision, self.text_mean / self.residual)
        if active < len(free):
            mean[:, active:], cov[:, active:], cov[:, :, active:] = 0, 0, 0
        rows = torch.tensor(free, device=self.device)
        self.items.mean[:, rows] = mean
        self.items.cov[:, rows[:, None], rows] = cov

    def _compute_judged_utilities(self) -> Tensor:
        return torch.cat([compute_utilities(self.users, self.items, batch) for batch in self.data.kinds])

    def _compute_change(self, before: Tensor) -> float:
        """Return the standard deviation of the change of judged utilities over that of the utilities; 0 without data."""
        if not len(before):
            return 0.0
        now = self._compute_judged_utilities()
        return float((now - before).std(correction=0) / now.std(correction=0).clamp_min(1e-9))

    def compute_content_directions(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return principal components of the embedding: directions `[d, p]` of x with unit variance, and shares `[p]`.

        p is `number`, or less if the embedding varies in fewer directions. A share is the component's part of the
        variance of all p; they sum to 1.
        """
        variances, directions = self._embedded_components
        p = min(number, int((variances > 1e-12 * max(variances.max(initial=0.0), 1e-18)).sum()))
        loadings = np.zeros((self.x.shape[1], p))
        loadings[: len(directions)] = directions[:, :p] / variances[:p] ** 0.5
        return loadings, variances[:p] / variances[:p].sum()

    @cached_property
    def _embedded_components(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues, descending, and eigenvectors of the covariance of the standardised embedding."""
        x = self.x[:, : int((self.blocks == 0).sum())].double().cpu().numpy()
        values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, bias=True).reshape(x.shape[1], x.shape[1]))
        return values[::-1].clip(min=0.0), vectors[:, ::-1]

    def build_reward_model(
        self,
        *,
        temperature: float = 1.0,
        with_memory: bool = True,
        excluded: NDArray[np.bool_] | None = None,
    ) -> RewardModel:
        """Build the reward model of the current beliefs through `assemble`, which explains the arguments."""
        return assemble(self, temperature=temperature, with_memory=with_memory, excluded=excluded)
