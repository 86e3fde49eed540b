"""What judgements say of users and of items: the messages of mean-field variational EM, in batch on torch.

With u = g_x·h_i (`variational`) a judgement is a Gaussian site −½ωu² + λu, of which a user gets (ωE[ggᵀ], λĝ), an item
(ωE[hhᵀ], λĥ); conditioning on the known coordinates leaves the unknown ones. λ = ω·target for a rating, ±½ for a
logistic judgement under the Jaakkola–Jordan bound (ξ² = E[u²], ω = tanh(ξ/2)/2ξ); a weight multiplies both, and where a
label is right only with probability r, ±½ becomes ±(r − ½). Of a pair u is the difference, (g_a − g_b)·h.

The work is memory traffic: judgements are handled in chunks that fit a processor's cache, matrices changed in place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.dataset import Dataset, Told
from penchant.models.fitting.logistic import compute_bound_precision, compute_bound_slope
from penchant.models.fitting.variational import RATING_NOISE, Factors, RatingScales, Trust

CHUNK_NUMBERS: Final = 1 << 18
"""Judgements are handled in chunks of so many numbers (2 MiB), D² a judgement."""


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


def user_messages(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust
) -> Messages:
    """What the judgements say of every user, `n = U`."""
    return _collect(users, _user_sites(data, users, items, scales, trust))


def item_messages(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust
) -> Messages:
    """What the judgements say of every item, `n = N`; each user's influence is capped."""
    return _collect(items, _item_sites(data, users, items, scales, trust))


_Sites = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Row `[j]`, precision `[j, D, D]` and linear term `[j, D]` of j sites."""


def _collect(side: Factors, sites: _Sites) -> Messages:
    """Sums the sites of every row and conditions on the known coordinates."""
    n, width = side.mean.shape
    precision = side.mean.new_zeros(n, width, width)
    linear = side.mean.new_zeros(n, width)
    for row, site_precision, site_linear in sites:
        precision.index_add_(0, row, site_precision)
        linear.index_add_(0, row, site_linear)
    free = side.free
    known = [c for c in range(width) if c not in free]
    crossed = precision[:, free][:, :, known]
    return Messages(
        precision[:, free][:, :, free],
        linear[:, free] - torch.einsum("nfc,nc->nf", crossed, side.mean[:, known]),
    )


def _user_sites(data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust) -> _Sites:
    second, of_users = items.second, users.second
    for rows in _chunks(len(data.ratings), users):
        told = data.ratings[rows]
        omega = told.weight / RATING_NOISE
        linear = omega * scales.targets(told)
        yield told.user, _scaled(second, told.item, omega), linear[:, None] * items.mean[told.item]
    for rows in _chunks(len(data.votes), users):
        told = data.votes[rows]
        spread = second.index_select(0, told.item)
        omega = told.weight * _omega(spread, of_users, told.user)
        pull = compute_bound_slope(told.value, told.weight, trust.right[1][rows])
        yield told.user, spread.mul_(omega[:, None, None]), pull[:, None] * items.mean[told.item]
    for rows in _chunks(len(data.pairs), users):
        told = data.pairs[rows]
        difference, spread = _difference(items, told)
        omega = told.weight * _omega(spread, of_users, told.user)
        pull = compute_bound_slope(told.value, told.weight, trust.right[2][rows])
        yield told.user, spread.mul_(omega[:, None, None]), pull[:, None] * difference


def _item_sites(data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust) -> _Sites:
    second, of_items = users.second, items.second
    for rows in _chunks(len(data.ratings), users):
        told = data.ratings[rows]
        omega = told.weight * trust.share[0][rows] / RATING_NOISE
        linear = omega * scales.targets(told)
        yield told.item, _scaled(second, told.user, omega), linear[:, None] * users.mean[told.user]
    for rows in _chunks(len(data.votes), users):
        told = data.votes[rows]
        power = told.weight * trust.share[1][rows]
        omega = power * _omega(of_items.index_select(0, told.item), second, told.user)
        pull = compute_bound_slope(told.value, power, trust.right[1][rows])
        yield told.item, _scaled(second, told.user, omega), pull[:, None] * users.mean[told.user]
    for rows in _chunks(len(data.pairs), users):
        told = data.pairs[rows]
        power = told.weight * trust.share[2][rows]
        omega = power * _omega(_difference(items, told)[1], second, told.user)
        precision = _scaled(second, told.user, omega)
        pull = compute_bound_slope(told.value, power, trust.right[2][rows])
        half = pull[:, None] * users.mean[told.user]
        yield told.item, precision, half + torch.einsum("jde,je->jd", precision, items.mean[told.other])
        yield told.other, precision, -half + torch.einsum("jde,je->jd", precision, items.mean[told.item])


def _scaled(matrices: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
    """`[j, D, D]` of `[n, D, D]`, each times its factor `[j]`."""
    return matrices.index_select(0, rows).mul_(factors[:, None, None])


def _difference(items: Factors, told: Told) -> tuple[Tensor, Tensor]:
    """Difference d = ĝ_a − ĝ_b `[j, D]` and M = ddᵀ + C_a + C_b `[j, D, D]`."""
    d = items.mean[told.item] - items.mean[told.other]
    spread = items.cov.index_select(0, told.item).add_(items.cov.index_select(0, told.other))
    return d, spread.addcmul_(d[:, :, None], d[:, None, :])


def _omega(spread: Tensor, second: Tensor, user: Tensor) -> Tensor:
    """ω of the Jaakkola–Jordan bound at its optimum ξ² = tr(M E[hhᵀ]), `[j]`; `second` is E[hhᵀ], `[U, D, D]`."""
    squared: Tensor = torch.linalg.vecdot(spread.flatten(1), second.index_select(0, user).flatten(1))
    return compute_bound_precision(squared)


def _chunks(n: int, side: Factors) -> Iterator[slice]:
    size = max(1, CHUNK_NUMBERS // side.mean.shape[1] ** 2)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
