"""Gaussian sites: what one judgement adds to a user's natural parameters, and what is believed with it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

from penchant.models.taste.beliefs import Portrait, Projection

Vector = NDArray[np.float64]


class LineSite(NamedTuple):
    """exp(−½ ω(φ·y)² + lφ·y): what a pair, vote or rating adds to a user's natural parameters.

    Attributes:
        direction: `[q]` φ.
        curvature: ω, at least 0.
        push: l.
        surprise: By how much the log probability of the judgement was larger for a stranger than for this user.
        before: What was believed.
        projection: Of φ on it.
    """

    direction: Vector
    curvature: float
    push: float
    surprise: float
    before: Portrait
    projection: Projection

    @property
    def precision(self) -> Vector:
        """`[q, q]` ωφφᵀ."""
        found: Vector = self.curvature * np.outer(self.direction, self.direction)
        return found

    @property
    def linear(self) -> Vector:
        """`[q]` lφ."""
        return self.push * self.direction

    def added_to(self, precision: Vector, linear: Vector) -> tuple[Vector, Vector]:
        """Evidence Λ `[q, q]` and η `[q]` with this site."""
        total: Vector = dger(self.curvature, self.direction, self.direction, a=precision.T).T
        return total, linear + self.linear

    def after(self) -> Portrait:
        """What is believed with this site. Cost: O(K q²)."""
        return self.before.after(self.projection, self.curvature, self.push)


class JointSite(NamedTuple):
    """exp(−½ uᵀCu + pᵀu), u = Fy: what a choice or ranking adds to a user's natural parameters.

    Attributes:
        factors: `[r, q]` F.
        core: `[r, r]` C, symmetric positive semidefinite.
        push: `[r]` p.
        surprise: By how much the log probability of the judgement was larger for a stranger than for this user.
        before: What was believed.
    """

    factors: Vector
    core: Vector
    push: Vector
    surprise: float
    before: Portrait

    @property
    def precision(self) -> Vector:
        """`[q, q]` FᵀCF."""
        found: Vector = self.factors.T @ self.core @ self.factors
        return 0.5 * (found + found.T)

    @property
    def linear(self) -> Vector:
        """`[q]` Fᵀp."""
        found: Vector = self.push @ self.factors
        return found

    def added_to(self, precision: Vector, linear: Vector) -> tuple[Vector, Vector]:
        """Evidence Λ `[q, q]` and η `[q]` with this site."""
        return precision + self.precision, linear + self.linear

    def after(self) -> Portrait:
        """What is believed with this site. Cost: O(K (q² r + r³))."""
        beliefs = self.before.beliefs.after(self.factors, self.core, self.push)
        return Portrait.of(beliefs, self.before.stranger)


Site = LineSite | JointSite
