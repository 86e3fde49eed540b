"""Moments of the utilities that a user's judgements are about, under a posterior that includes the judgements."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penchant.models.taste.blocks import Blocks

Vector = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """The posterior of u: per archetype mean `means_c` and covariance `carried V_c carriedᵀ + rest`.

    Attributes:
        weights: `[K]`.
        means: `[K, N]`.
        carried: `[N, q]`.
        covariances: `[K, q, q]` of y.
        rest: Blocks `[N, N]`: what is not y.
        blocks: Where they lie.
    """

    weights: Vector
    means: Vector
    carried: Vector
    covariances: Vector
    rest: Vector
    blocks: Blocks

    def single(self, rows: Index) -> tuple[Vector, Vector]:
        """Mean and variance of u of these items, `[K, J]`."""
        variances = self._quadratic(self.carried[rows]) + self.rest[self.blocks.at(rows, rows)]
        return self.means[:, rows], variances

    def difference(self, first: Index, second: Index) -> tuple[Vector, Vector]:
        """Mean and variance of u_first − u_second, `[K, J]`."""
        rest, at = self.rest, self.blocks.at
        apart = rest[at(first, first)] + rest[at(second, second)] - 2 * rest[at(first, second)]
        variances = self._quadratic(self.carried[first] - self.carried[second]) + apart
        return self.means[:, first] - self.means[:, second], variances

    def relative(self, rows: Index) -> tuple[Vector, Vector]:
        """Means `[K, n]` and covariances `[K, n, n]` of the utilities of n items of one block, less that of the last."""
        carried = self.carried[rows] - self.carried[rows[-1]]
        rest = self.rest[self.blocks.at(rows[:, None], rows)]
        rest = rest - rest[-1] - rest[:, -1:] + rest[-1, -1]
        return self.means[:, rows] - self.means[:, rows[-1:]], carried @ self.covariances @ carried.T + rest

    def _quadratic(self, directions: Vector) -> Vector:
        quadratic: Vector = ((directions @ self.covariances) * directions).sum(axis=2)
        return quadratic


def without(
    weights: Vector, means: Vector, variances: Vector, precision: Vector, linear: Vector
) -> tuple[Vector, Vector, Vector]:
    """Weights, means and variances `[K, J]` of J numbers when each is freed of its own site.

    Args:
        weights: `[K]`.
        means: `[K, J]`, sites included.
        variances: `[K, J]`, sites included.
        precision: `[J]` ω of each site exp(−½ωψ² + lψ).
        linear: `[J]` l.
    """
    share = np.maximum(1 - precision * variances, 1e-12)
    before_means, before = (means - linear * variances) / share, variances / share
    # log ∫ N(ψ; before) exp(−½ωψ² + lψ), which the site had multiplied the weight by
    evidence = 0.5 * (
        np.log(share) + share * (linear**2 * before + before_means * (2 * linear - precision * before_means))
    )
    freed = weights[:, None] * np.exp(evidence.min(axis=0) - evidence)
    return freed / freed.sum(axis=0), before_means, before


def joint_without(
    weights: Vector, means: Vector, covariances: Vector, precision: Vector, linear: Vector
) -> tuple[Vector, Vector, Vector]:
    """As `without`, of one site exp(−½uᵀΛu + ηᵀu) on n utilities.

    Args:
        weights: `[K]`.
        means: `[K, n]`, the site included.
        covariances: `[K, n, n]`, the site included.
        precision: `[n, n]` Λ.
        linear: `[n]` η.
    """
    system = np.eye(len(linear)) - covariances @ precision  # inverse of I + S'Λ
    inverse = np.linalg.inv(system).astype(np.float64, copy=False)
    before = inverse @ covariances
    before = 0.5 * (before + before.transpose(0, 2, 1))
    centres = (inverse @ (means - covariances @ linear)[:, :, None])[:, :, 0]
    pull = linear - centres @ precision
    gained = ((covariances @ pull[:, :, None])[:, :, 0] * pull).sum(axis=1)
    quadratic = centres @ linear * 2 - ((centres @ precision) * centres).sum(axis=1)
    evidence = 0.5 * (np.linalg.slogdet(system)[1] + gained + quadratic)
    freed = weights * np.exp(evidence.min() - evidence)
    return freed / freed.sum(), centres, before
