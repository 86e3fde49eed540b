"""`Tastes`: coordinates of a user that do not depend on the fit.

The coordinates of a fit are arbitrary: any rotation of z fits equally well. With S the covariance of z over the
population and V that of v over texts, the tastes are the principal axes of personal utility z·v: the eigenvectors of
S½VS½, whose eigenvalues are the variances of utility that they carry. A user is z = z̄ + Σ_j s_j δ_j, where z̄ is the
mean user, δ_j is one standard deviation along taste j, and the scores s_j are uncorrelated over the population, of mean
0 and variance 1.
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
    """An invertible linear change of coordinates: utility is t + base + Σ_j s_j taste_j.

    Attributes:
        centre: `[q - 1]` z̄.
        positions: `[q - 1, q - 1]` δ_j in rows, largest variance first.
    """

    centre: Vector
    positions: Vector

    @classmethod
    def principal_axes(cls, prior: Beliefs, covariance: Vector) -> "Tastes":
        """Return the principal axes of personal utility.

        Args:
            prior: The population.
            covariance: `[q - 1, q - 1]` V, the covariance of v over texts.
        """
        root = _root(prior.covariance[1:, 1:])
        variances, axes = np.linalg.eigh(root @ covariance @ root)
        return cls(prior.mean[1:], (root @ axes).T[np.argsort(-variances, kind="stable")])

    @classmethod
    def from_positions(cls, prior: Beliefs, positions: Sequence[Sequence[float]]) -> "Tastes":
        """Return the tastes at positions from `principal_axes`. If there are too few, they are completed by others.

        Raises:
            ValueError: If the positions do not fit the population.
        """
        size = len(prior.mean) - 1
        if len(positions) > size or any(len(position) != size for position in positions):
            raise ValueError(f"{len(positions)} tastes do not fit a population of {size + 1} coordinates")
        known = np.array(positions, np.float64).reshape(len(positions), size)
        root = _root(prior.covariance[1:, 1:])
        # Whitened, the known axes are orthonormal: a full QR decomposition gives their orthogonal complement.
        basis = np.linalg.qr((known @ np.linalg.pinv(root)).T, mode="complete")[0]
        return cls(prior.mean[1:], np.concatenate([known, (root @ basis[:, len(known) :]).T]))

    def texts(self, items: Items) -> tuple[Vector, Vector]:
        """Return base utility `[n]` of the mean user and the effect of one standard deviation of taste, `[n, q - 1]`."""
        return items.base + items.directions @ self.centre, items.directions @ self.positions.T

    def users(self, means: Vector, covariances: Vector) -> tuple[Vector, Vector]:
        """Return Gaussians over y = [t; z] as means and covariances of Gaussians over [t; s].

        Args:
            means: `[..., q]` means of y.
            covariances: `[..., q, q]` covariances of y.
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
