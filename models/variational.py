"""Mean-field variational EM over users and items, in batch on torch.

The utility of item x for user i is written u = g_x·h_i with

    item g = [b, 1, v₁…v_k]      user h = [1, t, z₁…z_k]      D = 2 + k

(b base, v directions; t threshold, z position). What is known (the ones) has no covariance, so that one formula serves
users and items: a judgement is a Gaussian site −½ωu² + λu, of which a user gets (ωE[ggᵀ], λĝ), an item (ωE[hhᵀ], λĥ);
conditioning on the known coordinates leaves the unknown ones. λ = ω·target for a rating, ±½ for a logistic judgement
under the Jaakkola–Jordan bound (ξ² = E[u²], ω = tanh(ξ/2)/2ξ).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from penchant.models.dataset import Dataset

RATING_NOISE: Final = math.pi**2 / 6
"""Variance of a rating in units of utility. It fixes the unit: two such noises make the variance of a logistic pair, so
that the difference of two ratings and a choice between the two texts are judgements of equal precision."""

MIN_SLOPE: Final = 0.01
"""Of a rating scale: ratings that hardly differ say little, and never infinitely much."""

CHUNK: Final = 131_072
"""Judgements handled at once: bounds memory at CHUNK·D² numbers."""


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


@dataclass(frozen=True)
class Messages:
    """What the judgements alone say of the unknown coordinates, in natural parameters.

    Attributes:
        precision: `[n, f, f]`.
        linear: `[n, f]`.
    """

    precision: Tensor
    linear: Tensor

    def posterior(self, prior_precision: Tensor, prior_linear: Tensor) -> tuple[Tensor, Tensor]:
        """Mean `[n, f]` and covariance `[n, f, f]` under a Gaussian prior given in natural parameters."""
        cov = torch.linalg.inv(self.precision + prior_precision)
        return torch.einsum("nij,nj->ni", cov, self.linear + prior_linear), cov


@dataclass
class RatingScales:
    """Offset and slope of every rating source: r = offset + slope·(u + ε), ε of variance `RATING_NOISE`, both `[S]`."""

    offset: Tensor
    slope: Tensor

    @classmethod
    def of(cls, data: Dataset) -> "RatingScales":
        """A first guess: the mean, and a slope as if half of a source's variance were noise."""
        offset = torch.zeros(len(data.sources), dtype=torch.float64)
        slope = torch.ones(len(data.sources), dtype=torch.float64)
        for s in range(len(data.sources)):
            values = data.ratings[data.rating_source == s]
            spread = values.std(correction=0) / (2 * RATING_NOISE) ** 0.5
            offset[s], slope[s] = values.mean(), spread.clamp_min(MIN_SLOPE)
        return cls(offset, slope)

    def targets(self, data: Dataset) -> Tensor:
        """Ratings as pseudo-observations of utility, `[R]`."""
        return (data.ratings - self.offset[data.rating_source]) / self.slope[data.rating_source]

    def update(self, data: Dataset, utility: Tensor) -> None:
        """Maximum likelihood given E[u] of the rated cells, `[R]`.

        offset: mean of r − slope·u. slope: positive root of N s β² + B β − A = 0 with A = Σ(r−o)², B = Σ(r−o)u, the
        stationary point of −N log β − Σ((r−o)/β − u)²/2s; Var[u] does not enter it.
        """
        count = torch.zeros_like(self.offset).index_add_(0, data.rating_source, torch.ones_like(utility))
        fitted = data.ratings - self.slope[data.rating_source] * utility
        self.offset = torch.zeros_like(self.offset).index_add_(0, data.rating_source, fitted) / count
        centred = data.ratings - self.offset[data.rating_source]
        a = torch.zeros_like(self.offset).index_add_(0, data.rating_source, centred**2)
        b = torch.zeros_like(self.offset).index_add_(0, data.rating_source, centred * utility)
        ns = count * RATING_NOISE
        self.slope = ((-b + torch.sqrt(b**2 + 4 * ns * a)) / (2 * ns)).clamp_min(MIN_SLOPE)


def user_messages(data: Dataset, users: Factors, items: Factors, scales: RatingScales) -> Messages:
    """What the judgements say of every user, `n = U`."""
    return _collect(users, _user_sites(data, users, items, scales))


def item_messages(data: Dataset, users: Factors, items: Factors, scales: RatingScales) -> Messages:
    """What the judgements say of every item, `n = N`."""
    return _collect(items, _item_sites(data, users, items, scales))


def _collect(side: Factors, sites: Iterator[tuple[Tensor, Tensor, Tensor]]) -> Messages:
    """Sums (row, precision `[j, D, D]`, linear `[j, D]`) by row and conditions on the known coordinates."""
    n, width = side.mean.shape
    precision = side.mean.new_zeros(n, width * width)
    linear = side.mean.new_zeros(n, width)
    for row, site_precision, site_linear in sites:
        precision.index_add_(0, row, site_precision.reshape(len(row), -1))
        linear.index_add_(0, row, site_linear)
    precision = precision.reshape(n, width, width)
    free = side.free
    known = [c for c in range(width) if c not in free]
    crossed = precision[:, free][:, :, known]
    return Messages(
        precision[:, free][:, :, free],
        linear[:, free] - torch.einsum("nfc,nc->nf", crossed, side.mean[:, known]),
    )


def _user_sites(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    second = items.second
    targets = scales.targets(data)
    for rows in _chunks(len(data.rated)):
        user, item = data.rated[rows].T
        yield user, second[item] / RATING_NOISE, targets[rows, None] / RATING_NOISE * items.mean[item]
    for rows in _chunks(len(data.voted)):
        user, item = data.voted[rows].T
        omega = _omega(second[item], users, user)
        yield user, omega[:, None, None] * second[item], 0.5 * data.votes[rows, None] * items.mean[item]
    for rows in _chunks(len(data.compared)):
        user, winner, loser = data.compared[rows].T
        difference, spread = _difference(items, winner, loser)
        omega = _omega(spread, users, user)
        yield user, omega[:, None, None] * spread, 0.5 * difference


def _item_sites(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    second = users.second
    targets = scales.targets(data)
    for rows in _chunks(len(data.rated)):
        user, item = data.rated[rows].T
        yield item, second[user] / RATING_NOISE, targets[rows, None] / RATING_NOISE * users.mean[user]
    for rows in _chunks(len(data.voted)):
        user, item = data.voted[rows].T
        omega = _omega(items.second[item], users, user)
        yield item, omega[:, None, None] * second[user], 0.5 * data.votes[rows, None] * users.mean[user]
    for rows in _chunks(len(data.compared)):
        user, winner, loser = data.compared[rows].T
        _, spread = _difference(items, winner, loser)
        precision = _omega(spread, users, user)[:, None, None] * second[user]
        half = 0.5 * users.mean[user]
        yield winner, precision, half + torch.einsum("jde,je->jd", precision, items.mean[loser])
        yield loser, precision, -half + torch.einsum("jde,je->jd", precision, items.mean[winner])


def utilities(users: Factors, items: Factors, cells: Tensor) -> Tensor:
    """E[u] of (user, item) cells `[J, 2]`, `[J]`."""
    return (items.mean[cells[:, 1]] * users.mean[cells[:, 0]]).sum(1)


def leading_directions(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales, *, rank: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Where z and v start: leading singular vectors of what the consensus leaves unexplained, `[U, k]` and `[N, k]`.

    k is `rank`, or fewer where there are not as many users or items. Cost: a randomised SVD of a sparse matrix.
    """
    cells, values = [data.rated], [scales.targets(data) - utilities(users, items, data.rated)]
    cells.append(data.voted)
    values.append(4 * ((data.votes + 1) / 2 - torch.sigmoid(utilities(users, items, data.voted))))
    user, winner, loser = data.compared.T
    surprise = 2 * torch.sigmoid(items.mean[loser, 0] - items.mean[winner, 0])
    cells += [torch.stack([user, winner], 1), torch.stack([user, loser], 1)]
    values += [surprise, -surprise]
    cell, value = torch.cat(cells), torch.cat(values)
    n_users, n_items = len(data.users), len(data.keys)
    left = torch.sparse_coo_tensor(cell.T, value, (n_users, n_items), check_invariants=False).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(left, q=min(rank + 6, n_users, n_items), niter=6)
    k = min(rank, len(s))
    count = torch.zeros(n_items, dtype=value.dtype).index_add_(0, cell[:, 1], torch.ones_like(value))
    return u[:, :k] * n_users**0.5, v[:, :k] * s[:k] * n_users**0.5 / (count[:, None] + 10)


def _difference(items: Factors, winner: Tensor, loser: Tensor) -> tuple[Tensor, Tensor]:
    """Difference d = ĝ_a − ĝ_b `[j, D]` and M = ddᵀ + C_a + C_b `[j, D, D]`."""
    d = items.mean[winner] - items.mean[loser]
    return d, d[:, :, None] * d[:, None, :] + items.cov[winner] + items.cov[loser]


def _omega(spread: Tensor, users: Factors, user: Tensor) -> Tensor:
    """ω of the Jaakkola–Jordan bound at its optimum ξ² = tr(M E[hhᵀ]), `[j]`."""
    xi = torch.einsum("jde,jde->j", spread, users.second[user]).clamp_min(1e-8).sqrt()
    return torch.tanh(xi / 2) / (2 * xi)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, CHUNK):
        yield slice(start, min(start + CHUNK, n))
