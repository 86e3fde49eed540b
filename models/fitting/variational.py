"""Beliefs about users, items and rating scales in variational EM.

The utility of item x for user i is written u = g_x·h_i with

    item g = [b, 1, v₁…v_k]      user h = [1, t, z₁…z_k]      D = 2 + k

(b base, v directions; t threshold, z position). The known coordinates, which are the ones, have no covariance, so that
one formula serves users and items. `messages` computes what judgements contribute to these beliefs.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.dataset import Dataset, JudgementBatch

RATING_NOISE: Final = math.pi**2 / 6
"""Variance of a rating in units of utility. It fixes the unit: the variance of a logistic pair is twice this, so that
the difference of two ratings and a choice between the two texts are equally precise."""

MIN_SLOPE: Final = 0.01
"""Smallest slope of a rating scale, which bounds the information in ratings that hardly differ."""


@dataclass
class Factors:
    """Gaussian beliefs about all users or all items.

    Attributes:
        mean: Means, `[n, D]`.
        cov: Covariances, `[n, D, D]`, zero for known coordinates.
        free: Indices of the unknown coordinates.
    """

    mean: Tensor
    cov: Tensor
    free: list[int]

    @property
    def second_moments(self) -> Tensor:
        """E[rrᵀ] of each row r, `[n, D, D]`."""
        return self.mean[:, :, None] * self.mean[:, None, :] + self.cov


@dataclass
class RatingScales:
    """Rating scales of all sources: r = offset + slope·(u + ε), where ε has variance `RATING_NOISE`.

    Attributes:
        offset: Offset of each source, `[S]`.
        slope: Slope of each source, `[S]`.
    """

    offset: Tensor
    slope: Tensor

    @classmethod
    def from_ratings(cls, data: Dataset) -> "RatingScales":
        """Make a first guess: the mean, and the slope at which half of the variance of a source is noise."""
        batch = data.ratings
        count = sum_by_source(data, batch, torch.ones_like(batch.value)).clamp_min(1e-12)
        offset = sum_by_source(data, batch, batch.value) / count
        variance = sum_by_source(data, batch, (batch.value - offset[batch.source]) ** 2) / count
        return cls(offset, (variance / (2 * RATING_NOISE)).sqrt().clamp_min(MIN_SLOPE))

    def compute_targets(self, batch: JudgementBatch) -> Tensor:
        """Return ratings as pseudo-observations of utility, `[R]`."""
        return (batch.value - self.offset[batch.source]) / self.slope[batch.source]

    def update(self, data: Dataset, utility: Tensor) -> None:
        """Set offset and slope by maximum likelihood, given E[u] of each rating, `[R]`.

        The offset is the mean of r − slope·u. The slope is the positive root of N s β² + B β − A = 0 with A = Σ(r−o)²
        and B = Σ(r−o)u, the stationary point of −N log β − Σ((r−o)/β − u)²/2s. Var[u] does not enter it.
        """
        batch, weight = data.ratings, data.ratings.weight
        count = sum_by_source(data, batch, weight).clamp_min(1e-12)
        self.offset = (
            sum_by_source(data, batch, weight * (batch.value - self.slope[batch.source] * utility)) / count
        )
        centred = batch.value - self.offset[batch.source]
        a = sum_by_source(data, batch, weight * centred**2)
        b = sum_by_source(data, batch, weight * centred * utility)
        ns = count * RATING_NOISE
        self.slope = ((-b + torch.sqrt(b**2 + 4 * ns * a)) / (2 * ns)).clamp_min(MIN_SLOPE)


@dataclass(frozen=True)
class Trust:
    """How far each judgement is believed, and how much it may contribute to the items.

    Attributes:
        correct: Probability that each label is correct, `[J]` for each kind; 1 for ratings.
        share: Factor on the contribution of each judgement to the items, `[J]` for each kind. It caps the influence of a
            user.
    """

    correct: tuple[Tensor, Tensor, Tensor]
    share: tuple[Tensor, Tensor, Tensor]


def sum_by_source(data: Dataset, batch: JudgementBatch, values: Tensor) -> Tensor:
    """Return the sums of values `[J]` by source, `[S]`."""
    return values.new_zeros(len(data.sources)).index_add_(0, batch.source, values)


def compute_utilities(users: Factors, items: Factors, batch: JudgementBatch) -> Tensor:
    """Return E[u] of each judged item, or of the difference of a pair, `[J]`."""
    row = items.mean[batch.item]
    if len(batch) and int(batch.other[0]) >= 0:
        row = row - items.mean[batch.other]
    return (row * users.mean[batch.user]).sum(1)


def find_leading_directions(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales, *, rank: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return initial values of z, `[U, k]`, and v, `[N, k]`: leading singular vectors of the residuals of the consensus.

    k is `rank`, or less if there are fewer users or items.

    Cost: a randomised SVD of a sparse matrix.
    """
    ratings, votes, pairs = data.kinds
    residual = 2 * pairs.weight * torch.sigmoid(items.mean[pairs.other, 0] - items.mean[pairs.item, 0])
    user = torch.cat([ratings.user, votes.user, pairs.user, pairs.user])
    item = torch.cat([ratings.item, votes.item, pairs.item, pairs.other])
    value = torch.cat(
        [
            ratings.weight * (scales.compute_targets(ratings) - compute_utilities(users, items, ratings)),
            4
            * votes.weight
            * ((votes.value + 1) / 2 - torch.sigmoid(compute_utilities(users, items, votes))),
            residual,
            -residual,
        ]
    )
    n_users, n_items = len(data.users), len(data.keys)
    cell = torch.stack([user, item])
    left = torch.sparse_coo_tensor(cell, value, (n_users, n_items), check_invariants=False).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(left, q=min(rank + 6, n_users, n_items), niter=6)
    k = min(rank, len(s))
    count = value.new_zeros(n_items).index_add_(0, item, torch.ones_like(value))
    return u[:, :k] * n_users**0.5, v[:, :k] * s[:k] * n_users**0.5 / (count[:, None] + 10)
