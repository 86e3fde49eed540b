"""`Tastes`: coordinates of a user that mean the same in every fit.

The coordinates of a fit are arbitrary: any rotation of z serves as well. With S the covariance of z over the population
and V that of v over texts, the tastes are the principal axes of personal utility z·v: the eigenvectors of S½VS½, whose
eigenvalues are the variances of utility that they carry. A user is z = z̄ + Σ_j s_j δ_j, where z̄ is the mean user, δ_j
stands one standard deviation along taste j, and the scores s_j are uncorrelated over the population, of mean 0 and
variance 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penchant.models.taste.items import Items
from penchant.models.taste.population import Beliefs

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Tastes:
    """A linear change of coordinates, loss-free: utility is t + base + Σ_j s_j taste_j in both.

    Attributes:
        centre: `[q - 1]` z̄.
        positions: `[q - 1, q - 1]` δ_j, a row each, of largest variance first.
    """

    centre: Vector
    positions: Vector

    @classmethod
    def of(cls, prior: Beliefs, covariance: Vector) -> "Tastes":
        """The principal axes.

        Args:
            prior: The population.
            covariance: `[q - 1, q - 1]` V, of v over texts.
        """
        root = _root(prior.covariance[1:, 1:])
        variances, axes = np.linalg.eigh(root @ covariance @ root)
        return cls(prior.mean[1:], (root @ axes).T[np.argsort(-variances, kind="stable")])

    @classmethod
    def at(cls, prior: Beliefs, positions: Sequence[Sequence[float]]) -> "Tastes":
        """Those at positions that `of` once gave, completed by others in no order where they are not all.

        Raises:
            ValueError: They do not fit the population.
        """
        size = len(prior.mean) - 1
        if len(positions) > size or any(len(position) != size for position in positions):
            raise ValueError(f"{len(positions)} tastes do not fit a population of {size + 1} coordinates")
        known = np.array(positions, np.float64).reshape(len(positions), size)
        root = _root(prior.covariance[1:, 1:])
        # Whitened, the known axes are orthonormal: a full QR gives what stands at right angles to all of them.
        whole = np.linalg.qr((known @ np.linalg.pinv(root)).T, mode="complete")[0]
        return cls(prior.mean[1:], np.concatenate([known, (root @ whole[:, len(known) :]).T]))

    def texts(self, items: Items) -> tuple[Vector, Vector]:
        """Base utility `[n]` for the mean user, and what one standard deviation of each taste adds, `[n, q - 1]`."""
        return items.base + items.directions @ self.centre, items.directions @ self.positions.T

    def users(self, means: Vector, covariances: Vector) -> tuple[Vector, Vector]:
        """Gaussians over y = [t; z] as Gaussians over [t; s].

        Args:
            means: `[..., q]`.
            covariances: `[..., q, q]`.
        """
        q = len(self.centre) + 1
        change = np.eye(q)
        change[1:, 1:] = np.linalg.pinv(self.positions.T) if q > 1 else change[1:, 1:]
        centre = np.concatenate([[0.0], self.centre])
        return (means - centre) @ change.T, change @ covariances @ change.T


def _root(covariance: Vector) -> Vector:
    """Symmetric square root."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
