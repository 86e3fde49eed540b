"""The mixture prior over users while it is fitted: archetypes by EM on what the judgements alone say of every user.

E step: responsibilities from the evidence of a user's natural parameters under each archetype, the closed form of
`population.Population.update`. M step: weights, means and covariances from the posterior moments, covariances shrunk
towards the covariance of all users.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.messages import Messages

SHRINKAGE: Final = 10.0
"""Users' worth of the common covariance in every archetype's."""

SPLIT_ROUNDS: Final = 60
TOLERANCE: Final = 1e-5
"""Of the mean log evidence of a user."""


@dataclass(frozen=True)
class Placed:
    """Where users stand under each archetype.

    Attributes:
        responsibilities: `[U, K]`.
        means: `[U, K, f]`.
        covs: `[U, K, f, f]`.
        evidence: Mean log evidence of a user, up to a constant.
    """

    responsibilities: Tensor
    means: Tensor
    covs: Tensor
    evidence: float

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean `[U, f]` and covariance `[U, f, f]` over archetypes."""
        if self.means.shape[1] == 1:
            return self.means[:, 0], self.covs[:, 0]
        mean = torch.einsum("uc,ucf->uf", self.responsibilities, self.means)
        apart = self.means - mean[:, None]
        cov = torch.einsum("uc,ucfg->ufg", self.responsibilities, self.covs)
        return mean, cov + torch.einsum("uc,ucf,ucg->ufg", self.responsibilities, apart, apart)

    def moved(self, shift: Tensor, change: Tensor) -> "Placed":
        """In coordinates y' = A(y − shift), A `[f, f]`."""
        means = (self.means - shift) @ change.T
        return Placed(self.responsibilities, means, change @ self.covs @ change.T, self.evidence)


@dataclass(frozen=True)
class Mixture:
    """Σ_c π_c N(μ_c, Σ_c).

    Attributes:
        weights: `[K]`.
        means: `[K, f]`.
        covs: `[K, f, f]`.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor

    @classmethod
    def single(cls, cov: Tensor) -> "Mixture":
        """One archetype at 0."""
        return cls(cov.new_ones(1), cov.new_zeros(1, len(cov)), cov[None].clone())

    def place(self, messages: Messages) -> Placed:
        """Posterior of every user. Cost: O(U K f³)."""
        prior = torch.linalg.inv(self.covs)
        linear = torch.einsum("cfg,cg->cf", prior, self.means)
        root = torch.linalg.cholesky(messages.precision[:, None] + prior)
        covs = torch.cholesky_inverse(root)
        totals = messages.linear[:, None] + linear
        means = torch.einsum("ucfg,ucg->ucf", covs, totals)
        constant = self.weights.log() + 0.5 * (torch.logdet(prior) - (self.means * linear).sum(1))
        log_root = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        scores = constant - log_root + 0.5 * (totals * means).sum(-1)
        evidence = torch.logsumexp(scores, 1)
        return Placed((scores - evidence[:, None]).exp(), means, covs, float(evidence.mean()))

    def refitted(self, placed: Placed) -> "Mixture":
        """The M step. One archetype keeps mean 0, for the base utility holds what all users share."""
        if len(self.weights) == 1:
            second = placed.covs[:, 0] + placed.means[:, 0, :, None] * placed.means[:, 0, None, :]
            return Mixture(self.weights, self.means, second.mean(0)[None])
        r = placed.responsibilities
        count = r.sum(0)
        means = torch.einsum("uc,ucf->cf", r, placed.means) / count.clamp_min(1e-9)[:, None]
        apart = placed.means - means
        spread = torch.einsum("uc,ucfg->cfg", r, placed.covs)
        spread = spread + torch.einsum("uc,ucf,ucg->cfg", r, apart, apart)
        mean, cov = placed.moments
        common = cov.mean(0) + (mean - mean.mean(0)).T @ (mean - mean.mean(0)) / len(mean)
        covs = (spread + SHRINKAGE * common) / (count + SHRINKAGE)[:, None, None]
        return Mixture((count + 1) / (len(r) + len(count)), means, covs)


def split(messages: Messages, single: Mixture, archetypes: int, *, seed: int) -> Mixture:
    """A mixture of archetypes for given messages: EM from k-means++ seeds (Arthur & Vassilvitskii 2007).

    Args:
        messages: What the judgements say of every user.
        single: The prior with one archetype, whose covariance every archetype starts from.
        archetypes: K, at most the number of users.
        seed: Of the first means.
    """
    placed = single.place(messages)
    where, generator = placed.means[:, 0], torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(where), (1,), generator=generator))]
    for _ in range(min(archetypes, len(where)) - 1):
        nearest = torch.cdist(where, where[chosen]).min(1).values.cpu() ** 2
        chosen.append(int(torch.multinomial(nearest.clamp_min(1e-12), 1, generator=generator)))
    k = len(chosen)
    mixture = Mixture(where.new_full((k,), 1 / k), where[chosen].clone(), single.covs.repeat(k, 1, 1))
    previous = -math.inf
    for _ in range(SPLIT_ROUNDS):
        placed = mixture.place(messages)
        mixture = mixture.refitted(placed)
        if placed.evidence - previous < TOLERANCE:
            break
        previous = placed.evidence
    return mixture
