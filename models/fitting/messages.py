"""The messages of mean-field variational EM: the evidence of judgements about users and items, in batch on torch.

With u = g_x·h_i (`variational`), a judgement is a Gaussian site −½ωu² + λu. Its message to the user is (ωE[ggᵀ], λĝ),
its message to the item (ωE[hhᵀ], λĥ). Conditioning on the known coordinates leaves the unknown ones. For a rating,
λ = ω·target. For a vote or pair, ω and λ are those of the bound in `logistic`, where ψ = u. The weight of the judgement
multiplies both. For a pair, u is the difference (g_a − g_b)·h.

Memory traffic dominates the cost, so judgements are handled in chunks that fit a processor's cache, and matrices are
changed in place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from penchant.models.fitting.dataset import Dataset, JudgementBatch
from penchant.models.fitting.logistic import compute_bound_precision, compute_bound_slope
from penchant.models.fitting.variational import RATING_NOISE, Factors, RatingScales, Trust

CHUNK_NUMBERS: Final = 1 << 18
"""Numbers in a chunk of judgements (2 MiB), each of which takes D²."""


@dataclass(frozen=True)
class Messages:
    """Evidence of the judgements alone about the f unknown coordinates of n rows, in natural parameters.

    Attributes:
        precision: Precision matrices, `[n, f, f]`.
        linear: Precision times mean, `[n, f]`.
    """

    precision: Tensor
    linear: Tensor

    def compute_posterior(self, prior_precision: Tensor, prior_linear: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean `[n, f]` and covariance `[n, f, f]` under a Gaussian prior given in natural parameters."""
        cov = torch.linalg.inv(self.precision + prior_precision)
        return torch.einsum("nij,nj->ni", cov, self.linear + prior_linear), cov


def compute_user_messages(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust
) -> Messages:
    """Return the evidence of the judgements about every user, `n = U`."""
    return _sum_sites(users, _user_sites(data, users, items, scales, trust))


def compute_item_messages(
    data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust
) -> Messages:
    """Return the evidence of the judgements about every item, `n = N`, with the influence of each user capped."""
    return _sum_sites(items, _item_sites(data, users, items, scales, trust))


_Sites = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Row index `[j]`, precision `[j, D, D]` and linear coefficient `[j, D]` of j sites."""


def _sum_sites(side: Factors, sites: _Sites) -> Messages:
    """Sum the sites of every row and condition on the known coordinates."""
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
    second, of_users = items.second_moments, users.second_moments
    for rows in _split_chunks(len(data.ratings), users):
        batch = data.ratings[rows]
        omega = batch.weight / RATING_NOISE
        linear = omega * scales.compute_targets(batch)
        yield batch.user, _scale(second, batch.item, omega), linear[:, None] * items.mean[batch.item]
    for rows in _split_chunks(len(data.votes), users):
        batch = data.votes[rows]
        spread = second.index_select(0, batch.item)
        omega = batch.weight * _compute_omega(spread, of_users, batch.user)
        slope = compute_bound_slope(batch.value, batch.weight, trust.correct[1][rows])
        yield batch.user, spread.mul_(omega[:, None, None]), slope[:, None] * items.mean[batch.item]
    for rows in _split_chunks(len(data.pairs), users):
        batch = data.pairs[rows]
        difference, spread = _compute_difference(items, batch)
        omega = batch.weight * _compute_omega(spread, of_users, batch.user)
        slope = compute_bound_slope(batch.value, batch.weight, trust.correct[2][rows])
        yield batch.user, spread.mul_(omega[:, None, None]), slope[:, None] * difference


def _item_sites(data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust) -> _Sites:
    second, of_items = users.second_moments, items.second_moments
    for rows in _split_chunks(len(data.ratings), users):
        batch = data.ratings[rows]
        omega = batch.weight * trust.share[0][rows] / RATING_NOISE
        linear = omega * scales.compute_targets(batch)
        yield batch.item, _scale(second, batch.user, omega), linear[:, None] * users.mean[batch.user]
    for rows in _split_chunks(len(data.votes), users):
        batch = data.votes[rows]
        power = batch.weight * trust.share[1][rows]
        omega = power * _compute_omega(of_items.index_select(0, batch.item), second, batch.user)
        slope = compute_bound_slope(batch.value, power, trust.correct[1][rows])
        yield batch.item, _scale(second, batch.user, omega), slope[:, None] * users.mean[batch.user]
    for rows in _split_chunks(len(data.pairs), users):
        batch = data.pairs[rows]
        power = batch.weight * trust.share[2][rows]
        omega = power * _compute_omega(_compute_difference(items, batch)[1], second, batch.user)
        precision = _scale(second, batch.user, omega)
        slope = compute_bound_slope(batch.value, power, trust.correct[2][rows])
        half = slope[:, None] * users.mean[batch.user]
        yield batch.item, precision, half + torch.einsum("jde,je->jd", precision, items.mean[batch.other])
        yield batch.other, precision, -half + torch.einsum("jde,je->jd", precision, items.mean[batch.item])


def _scale(matrices: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
    """Select `[j, D, D]` from `[n, D, D]` by row index and multiply each matrix by its factor, `[j]`."""
    return matrices.index_select(0, rows).mul_(factors[:, None, None])


def _compute_difference(items: Factors, batch: JudgementBatch) -> tuple[Tensor, Tensor]:
    """Return the difference d = ĝ_a − ĝ_b `[j, D]` and M = ddᵀ + C_a + C_b `[j, D, D]`."""
    d = items.mean[batch.item] - items.mean[batch.other]
    spread = items.cov.index_select(0, batch.item).add_(items.cov.index_select(0, batch.other))
    return d, spread.addcmul_(d[:, :, None], d[:, None, :])


def _compute_omega(spread: Tensor, second: Tensor, user: Tensor) -> Tensor:
    """Return ω of the bound for E[u²] = tr(M E[hhᵀ]), `[j]`; `second` is E[hhᵀ] of all users, `[U, D, D]`."""
    second_moment: Tensor = torch.linalg.vecdot(spread.flatten(1), second.index_select(0, user).flatten(1))
    return compute_bound_precision(second_moment)


def _split_chunks(n: int, side: Factors) -> Iterator[slice]:
    size = max(1, CHUNK_NUMBERS // side.mean.shape[1] ** 2)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
