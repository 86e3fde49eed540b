"""What variational EM knows of users, items and rating scales.

The utility of item x for user i is written u = g_x·h_i with

    item g = [b, 1, v₁…v_k]      user h = [1, t, z₁…z_k]      D = 2 + k

(b base, v directions; t threshold, z position). What is known (the ones) has no covariance, so that one formula serves
users and items. What judgements say of them is in `messages`.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.dataset import Dataset, Told

RATING_NOISE: Final = math.pi**2 / 6
"""Variance of a rating in units of utility. It fixes the unit: two such noises make the variance of a logistic pair, so
that the difference of two ratings and a choice between the two texts are judgements of equal precision."""

MIN_SLOPE: Final = 0.01
"""Of a rating scale: ratings that hardly differ say little, and never infinitely much."""


@dataclass
class Factors:
    """Gaussian beliefs about the rows of one side.

    Attributes:
        mean: `[n, D]`.
        cov: `[n, D, D]`, zero for known coordinates.
        free: Indices of the unknown coordinates.
    """

    mean: Tensor
    cov: Tensor
    free: list[int]

    @property
    def second(self) -> Tensor:
        """E[rrᵀ], `[n, D, D]`."""
        return self.mean[:, :, None] * self.mean[:, None, :] + self.cov


@dataclass
class RatingScales:
    """Offset and slope, `[S]`, of every source's ratings: r = offset + slope·(u + ε), ε of variance `RATING_NOISE`."""

    offset: Tensor
    slope: Tensor

    @classmethod
    def of(cls, data: Dataset) -> "RatingScales":
        """A first guess: the mean, and a slope as if half of a source's variance were noise."""
        told = data.ratings
        count = by_source(data, told, torch.ones_like(told.value)).clamp_min(1e-12)
        offset = by_source(data, told, told.value) / count
        variance = by_source(data, told, (told.value - offset[told.source]) ** 2) / count
        return cls(offset, (variance / (2 * RATING_NOISE)).sqrt().clamp_min(MIN_SLOPE))

    def targets(self, told: Told) -> Tensor:
        """Ratings as pseudo-observations of utility, `[R]`."""
        return (told.value - self.offset[told.source]) / self.slope[told.source]

    def update(self, data: Dataset, utility: Tensor) -> None:
        """Maximum likelihood given E[u] of the rated cells, `[R]`.

        offset: mean of r − slope·u. slope: positive root of N s β² + B β − A = 0 with A = Σ(r−o)², B = Σ(r−o)u, the
        stationary point of −N log β − Σ((r−o)/β − u)²/2s; Var[u] does not enter it.
        """
        told, weight = data.ratings, data.ratings.weight
        count = by_source(data, told, weight).clamp_min(1e-12)
        self.offset = by_source(data, told, weight * (told.value - self.slope[told.source] * utility)) / count
        centred = told.value - self.offset[told.source]
        a = by_source(data, told, weight * centred**2)
        b = by_source(data, told, weight * centred * utility)
        ns = count * RATING_NOISE
        self.slope = ((-b + torch.sqrt(b**2 + 4 * ns * a)) / (2 * ns)).clamp_min(MIN_SLOPE)


@dataclass(frozen=True)
class Trust:
    """How far each judgement is believed, and how far it may move what all users share.

    Attributes:
        right: Per kind `[J]`, the probability that the label is right; 1 of ratings.
        share: Per kind `[J]`, factor on what the judgement says of the items: caps a user's influence.
    """

    right: tuple[Tensor, Tensor, Tensor]
    share: tuple[Tensor, Tensor, Tensor]


def by_source(data: Dataset, told: Told, values: Tensor) -> Tensor:
    """Sums of values `[J]` by source, `[S]`."""
    return values.new_zeros(len(data.sources)).index_add_(0, told.source, values)


def utilities(users: Factors, items: Factors, told: Told) -> Tensor:
    """E[u] of what was judged, of a pair the difference, `[J]`."""
    row = items.mean[told.item]
    if len(told) and int(told.other[0]) >= 0:
        row = row - items.mean[told.other]
    return (row * users.mean[told.user]).sum(1)


def leading_directions(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales, *, rank: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Where z and v start: leading singular vectors of what the consensus leaves unexplained, `[U, k]` and `[N, k]`.

    k is `rank`, or fewer where there are not as many users or items. Cost: a randomised SVD of a sparse matrix.
    """
    ratings, votes, pairs = data.kinds
    surprise = 2 * pairs.weight * torch.sigmoid(items.mean[pairs.other, 0] - items.mean[pairs.item, 0])
    user = torch.cat([ratings.user, votes.user, pairs.user, pairs.user])
    item = torch.cat([ratings.item, votes.item, pairs.item, pairs.other])
    value = torch.cat(
        [
            ratings.weight * (scales.targets(ratings) - utilities(users, items, ratings)),
            4 * votes.weight * ((votes.value + 1) / 2 - torch.sigmoid(utilities(users, items, votes))),
            surprise,
            -surprise,
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
