"""The mixture prior over users: archetypes, fitted by EM to the messages of the users.

E step: responsibilities from the evidence of a user's natural parameters under each archetype, in the closed form of
`population.Population.update`. M step: weights, means and covariances from the posterior moments. Covariances are shrunk
towards the covariance of all users.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.messages import Messages

SHRINKAGE: Final = 10.0
"""Weight of the common covariance in that of every archetype, in users."""

SPLIT_ROUNDS: Final = 60
TOLERANCE: Final = 1e-5
"""Gain in the mean log evidence of a user below which EM stops."""


@dataclass(frozen=True)
class UserPosteriors:
    """Posteriors of all users under each archetype.

    Attributes:
        responsibilities: Probability of each archetype, `[U, K]`.
        means: Means, `[U, K, f]`.
        covs: Covariances, `[U, K, f, f]`.
        evidence: Mean log evidence of a user, up to a constant.
    """

    responsibilities: Tensor
    means: Tensor
    covs: Tensor
    evidence: float

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean `[U, f]` and covariance `[U, f, f]` of each user over the archetypes."""
        if self.means.shape[1] == 1:
            return self.means[:, 0], self.covs[:, 0]
        mean = torch.einsum("uc,ucf->uf", self.responsibilities, self.means)
        deviation = self.means - mean[:, None]
        cov = torch.einsum("uc,ucfg->ufg", self.responsibilities, self.covs)
        return mean, cov + torch.einsum("uc,ucf,ucg->ufg", self.responsibilities, deviation, deviation)

    def transform(self, shift: Tensor, change: Tensor) -> "UserPosteriors":
        """Return the posteriors in coordinates y' = A(y − shift), where A is `change`, `[f, f]`."""
        means = (self.means - shift) @ change.T
        return UserPosteriors(self.responsibilities, means, change @ self.covs @ change.T, self.evidence)


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians, Σ_c π_c N(μ_c, Σ_c).

    Attributes:
        weights: Share of each archetype, `[K]`.
        means: Means, `[K, f]`.
        covs: Covariances, `[K, f, f]`.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor

    @classmethod
    def single(cls, cov: Tensor) -> "Mixture":
        """Make a mixture of one archetype with mean 0."""
        return cls(cov.new_ones(1), cov.new_zeros(1, len(cov)), cov[None].clone())

    def compute_posteriors(self, messages: Messages) -> UserPosteriors:
        """Return the posterior of every user. Cost: O(U K f³)."""
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
        return UserPosteriors((scores - evidence[:, None]).exp(), means, covs, float(evidence.mean()))

    def refit(self, posteriors: UserPosteriors) -> "Mixture":
        """Return the mixture after the M step. A single archetype keeps mean 0: the base utility holds the rest."""
        if len(self.weights) == 1:
            second = posteriors.covs[:, 0] + posteriors.means[:, 0, :, None] * posteriors.means[:, 0, None, :]
            return Mixture(self.weights, self.means, second.mean(0)[None])
        r = posteriors.responsibilities
        count = r.sum(0)
        means = torch.einsum("uc,ucf->cf", r, posteriors.means) / count.clamp_min(1e-9)[:, None]
        deviation = posteriors.means - means
        spread = torch.einsum("uc,ucfg->cfg", r, posteriors.covs)
        spread = spread + torch.einsum("uc,ucf,ucg->cfg", r, deviation, deviation)
        mean, cov = posteriors.moments
        common = cov.mean(0) + (mean - mean.mean(0)).T @ (mean - mean.mean(0)) / len(mean)
        covs = (spread + SHRINKAGE * common) / (count + SHRINKAGE)[:, None, None]
        return Mixture((count + 1) / (len(r) + len(count)), means, covs)


def fit_mixture(messages: Messages, single: Mixture, archetypes: int, *, seed: int) -> Mixture:
    """Fit a mixture of archetypes to the messages of users by EM from k-means++ seeds (Arthur & Vassilvitskii 2007).

    Args:
        messages: Evidence of the judgements about every user.
        single: Prior with one archetype, whose covariance every archetype starts from.
        archetypes: Number of archetypes K; lowered to the number of users if it is larger.
        seed: Seed of the choice of the first means.
    """
    posteriors = single.compute_posteriors(messages)
    positions, generator = posteriors.means[:, 0], torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(positions), (1,), generator=generator))]
    for _ in range(min(archetypes, len(positions)) - 1):
        nearest = torch.cdist(positions, positions[chosen]).min(1).values.cpu() ** 2
        chosen.append(int(torch.multinomial(nearest.clamp_min(1e-12), 1, generator=generator)))
    k = len(chosen)
    mixture = Mixture(positions.new_full((k,), 1 / k), positions[chosen].clone(), single.covs.repeat(k, 1, 1))
    previous = -math.inf
    for _ in range(SPLIT_ROUNDS):
        posteriors = mixture.compute_posteriors(messages)
        mixture = mixture.refit(posteriors)
        if posteriors.evidence - previous < TOLERANCE:
            break
        previous = posteriors.evidence
    return mixture
