"""The population, a mixture of Gaussians over users (archetypes), and the posterior mixture given a user's evidence.

A user is y = [t; z], q numbers: the threshold t, above which a text is good enough, and the position z in the space of
taste. y ~ Σ_c π_c N(μ_c, P_c⁻¹). A user's judgements add up to one Gaussian site in natural parameters, precision Λ and
linear term η, shared by all archetypes. Prior × site has a closed form, which this module computes.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotrf, dpotri

Vector = NDArray[np.float64]

Mixture = list[tuple[float, float, float]]
"""A mixture of Gaussians over one number: (weight, mean, variance) of each component."""


@dataclass(frozen=True)
class Beliefs:
    """A mixture of Gaussians over one user's y.

    Attributes:
        weights: `[K]` archetype weights, sum 1.
        means: `[K, q]`.
        covariances: `[K, q, q]`.
    """

    weights: Vector
    means: Vector
    covariances: Vector

    @property
    def second_moments(self) -> Vector:
        """E_c[y²] by archetype and coordinate, `[K, q]`."""
        means = self.means
        return means * means + self.covariances.diagonal(0, 1, 2)

    @cached_property
    def expected_squares(self) -> Vector:
        """E[y²] over the whole mixture, `[q]`."""
        squares: Vector = self.weights @ self.second_moments
        return squares

    @cached_property
    def _rows(self) -> Vector:
        """`[K(q + 1), q]` covariance of each archetype followed by its mean: one product with φ projects all."""
        rows = np.concatenate([self.covariances, self.means[:, None]], axis=1)
        return rows.reshape(-1, self.means.shape[1])

    @cached_property
    def _lists(self) -> tuple[list[float], list[float]]:
        """Weights, and E[y²] of each coordinate over the whole mixture."""
        return self.weights.tolist(), self.expected_squares.tolist()

    def along(self, direction: Vector, coordinates: tuple[int, ...]) -> tuple[Mixture, list[float]]:
        """Return the distribution of φ·y, and E[y_j²] of some coordinates j. Cost: O(K q²)."""
        weights, squares = self._lists
        products, q = self._rows.dot(direction), len(direction)
        mixture: Mixture = []
        for c, weight in enumerate(weights):
            mean = c * (q + 1) + q
            mixture.append((weight, products.item(mean), products[mean - q : mean].dot(direction).item()))
        return mixture, [squares[j] for j in coordinates]

    def project(self, directions: Vector, coordinates: tuple[int, ...]) -> tuple["Beliefs", Vector]:
        """Return the distribution of u = Fy for F `[r, q]`, and E[y_j²] of some coordinates j. Cost: O(K q² r)."""
        covariances = directions @ self.covariances @ directions.T
        projected = Beliefs(self.weights, self.means @ directions.T, covariances)
        return projected, self.expected_squares[list(coordinates)]

    @cached_property
    def mean(self) -> Vector:
        """E[y] over the whole mixture, `[q]`."""
        mean: Vector = self.weights @ self.means
        return mean

    @cached_property
    def covariance(self) -> Vector:
        """Cov[y] over the whole mixture, `[q, q]`."""
        deviations = self.means - self.mean
        within: Vector = np.tensordot(self.weights, self.covariances, axes=1)
        return within + (self.weights * deviations.T) @ deviations

    def update(self, directions: Vector, precision: Vector, linear: Vector) -> "Beliefs":
        """Return the beliefs after a site on u = Fy, exp(−½ uᵀCu + pᵀu), without inverting a `[q, q]` matrix.

        Woodbury: with a_c = F m_c, S_c = F V_c Fᵀ and B_c = (I + C S_c)⁻¹, V_c' = V_c − V_cFᵀB_cCFV_c,
        m_c' = m_c + V_cFᵀB_c(p − Ca_c), and w_c is multiplied by ∫ N(u; a_c, S_c) times the site.

        Args:
            directions: `[r, q]` F.
            precision: `[r, r]` C, positive semidefinite.
            linear: `[r]` p.

        Cost: O(K (q² r + r³)).
        """
        cross = directions @ self.covariances  # [K, r, q]
        covariances_u, means_u = cross @ directions.T, self.means @ directions.T
        system = np.eye(len(linear)) + precision @ covariances_u
        inverse = np.linalg.inv(system)
        gradient = linear - means_u @ precision
        shift = (gradient[:, None, :] @ inverse.transpose(0, 2, 1))[:, 0]
        means = self.means + (shift[:, None, :] @ cross)[:, 0]
        removed = cross.transpose(0, 2, 1) @ (inverse @ precision) @ cross
        covariances = self.covariances - 0.5 * (removed + removed.transpose(0, 2, 1))
        gained = (shift[:, None, :] @ covariances_u @ gradient[:, :, None])[:, 0, 0]
        quadratic = 2 * means_u @ linear - ((means_u @ precision) * means_u).sum(axis=1)
        evidence = 0.5 * (gained + quadratic - np.linalg.slogdet(system)[1])
        return Beliefs(reweight(self.weights, evidence), means, covariances)


def reweight(weights: Vector, log_evidence: Vector) -> Vector:
    """Return archetype weights `[K]` multiplied by their evidence and normalised."""
    # Weights that underflow to 0 are raised, so that later evidence can revive an archetype.
    logs = np.log(np.maximum(weights, 1e-300)) + log_evidence
    unnormalised = np.exp(logs - logs.max())
    normalised: Vector = unnormalised / unnormalised.sum()
    return normalised


_CERTAIN = [1.0]


class FactoredBeliefs:
    """Beliefs about a user as a Cholesky factor of each archetype's precision P_c + Λ = L_cL_cᵀ.

    Judgements depend on few linear functions of y. Their distribution follows from one triangular solve with few
    columns, X = L_c⁻¹[Fᵀ, P_cμ_c + η]: covariances and means are the products of the columns of X. This takes a fraction
    of the time of an inversion.

    Args:
        population: The prior.
        precision: `[q, q]` Λ.
        linear: `[q]` η.

    Cost: O(K q³); 48 coordinates and one archetype take about 20 µs.
    """

    __slots__ = ("_archetypes", "_log_prior_evidence")

    def __init__(self, population: "Population", precision: Vector, linear: Vector) -> None:
        self._archetypes = [
            (_factorise(prior, precision), total + linear)
            for prior, total in zip(population.precisions, population.linear, strict=True)
        ]
        self._log_prior_evidence = population.log_prior_evidence

    def along(self, direction: Vector, coordinates: tuple[int, ...]) -> tuple[Mixture, list[float]]:
        """Return the distribution of φ·y, and E[y_j²] of some coordinates j. Cost: O(K q²)."""
        n = len(coordinates)
        columns = _unit_columns(len(direction), coordinates, 2).copy("K")
        columns[:, n + 1] = direction
        grams = self._solve(columns, n)
        weights = self._weigh([gram[n][n] for gram in grams])
        mixture: Mixture = []
        squares = [0.0] * n
        for weight, gram in zip(weights, grams, strict=True):
            means = gram[n]
            mixture.append((weight, means[n + 1], gram[n + 1][n + 1]))
            for j in range(n):
                squares[j] += weight * (means[j] * means[j] + gram[j][j])
        return mixture, squares

    def project(self, directions: Vector, coordinates: tuple[int, ...]) -> tuple[Beliefs, Vector]:
        """Return the distribution of u = Fy for F `[r, q]`, and E[y_j²] of some coordinates j. Cost: O(K q² r)."""
        n, (r, q) = len(coordinates), directions.shape
        columns = _unit_columns(q, coordinates, 1 + r).copy("K")
        columns[:, n + 1 :] = directions.T
        grams = np.array(self._solve(columns, n))
        weights = np.array(self._weigh(grams[:, n, n].tolist()))
        squares = weights @ (grams[:, n, :n] ** 2 + grams.diagonal(0, 1, 2)[:, :n])
        return Beliefs(weights, grams[:, n, n + 1 :], grams[:, n + 1 :, n + 1 :]), squares

    def invert(self) -> Beliefs:
        """Return the beliefs with all means and covariances. Cost: O(K q³), three times that of the factors."""
        covariances = [_mirror(dpotri(factor, lower=1)[0]) for factor, _ in self._archetypes]
        totals = [total for _, total in self._archetypes]
        means = [covariance @ total for covariance, total in zip(covariances, totals, strict=True)]
        quadratics = [float(total @ mean) for total, mean in zip(totals, means, strict=True)]
        return Beliefs(np.array(self._weigh(quadratics)), np.array(means), np.array(covariances))

    def _solve(self, columns: Vector, at: int) -> list[list[list[float]]]:
        """Return XᵀX for X = L_c⁻¹ `columns` of each archetype, with P_cμ_c + η written to the column number `at`."""
        grams = []
        for factor, total in self._archetypes:
            columns[:, at] = total
            x = dtrsm(1.0, factor, columns, lower=1)
            grams.append(x.T.dot(x).tolist())
        return grams

    def _weigh(self, quadratics: list[float]) -> list[float]:
        """Return the archetype weights, given (P_cμ_c + η)ᵀ(P_c + Λ)⁻¹(P_cμ_c + η) of each.

        log w_c = log π_c + ½[log|P_c| − log|P_c + Λ| + quadratic_c − μ_cᵀP_cμ_c] + const: the Gaussian integral of prior
        times site.
        """
        if len(quadratics) == 1:
            return _CERTAIN
        logs = [
            evidence + 0.5 * quadratic - float(np.log(factor.diagonal()).sum())
            for evidence, quadratic, (factor, _) in zip(
                self._log_prior_evidence, quadratics, self._archetypes, strict=True
            )
        ]
        largest = max(logs)
        weights = [math.exp(log - largest) for log in logs]
        total = sum(weights)
        return [weight / total for weight in weights]


def _factorise(prior: Vector, evidence: Vector) -> Vector:
    """Return the lower Cholesky factor of the sum of two precisions. The numbers above its diagonal mean nothing.

    Evidence is stored in float32. If rounding made the sum of a long log slightly indefinite, the smallest multiple of
    the identity that repairs it is added.
    """
    factor: Vector
    factor, info = dpotrf((prior + evidence).T, lower=1, clean=0, overwrite_a=1)
    if info:
        total = prior + evidence
        scale = float(np.finfo(np.float32).eps) * float(total.diagonal().max())
        total[np.diag_indices_from(total)] += scale - min(0.0, float(np.linalg.eigvalsh(total)[0]))
        factor, _ = dpotrf(total.T, lower=1, clean=0, overwrite_a=1)
    return factor


@lru_cache(maxsize=64)
def _unit_columns(q: int, coordinates: tuple[int, ...], more: int) -> Vector:
    """Return unit vectors of some coordinates as the first columns of a `[q, n + more]` matrix in Fortran's order."""
    columns = np.zeros((q, len(coordinates) + more), order="F")
    columns[coordinates, range(len(coordinates))] = 1.0
    return columns


@cache
def _lower_half(q: int) -> NDArray[np.bool_]:
    """`[q, q]` mask of the lower triangle."""
    return np.tril(np.ones((q, q), np.bool_))


def _mirror(lower: Vector) -> Vector:
    """Return the symmetric matrix whose lower triangle is given."""
    symmetric: Vector = np.where(_lower_half(len(lower)), lower, lower.T)
    return symmetric


@dataclass(frozen=True)
class Population:
    """The mixture prior over users.

    Attributes:
        weights: `[K]`, positive, sum 1.
        means: `[K, q]`.
        precisions: `[K, q, q]`, symmetric positive definite.
    """

    weights: Vector
    means: Vector
    precisions: Vector

    @cached_property
    def q(self) -> int:
        """Number of coordinates of a user: the threshold and the directions of taste."""
        return int(self.means.shape[1])

    @cached_property
    def prior(self) -> Beliefs:
        """Beliefs about a user without judgements."""
        covariances = np.linalg.inv(self.precisions).astype(np.float64, copy=False)
        return Beliefs(self.weights, self.means, covariances)

    @cached_property
    def linear(self) -> Vector:
        """P_cμ_c, `[K, q]`."""
        linear: Vector = np.einsum("cij,cj->ci", self.precisions, self.means)
        return linear

    @cached_property
    def log_prior_evidence(self) -> list[float]:
        """Log π_c + ½ log|P_c| − ½ μ_cᵀP_cμ_c of each archetype: what does not depend on judgements in its evidence."""
        quadratic = np.einsum("ci,ci->c", self.means, self.linear)
        evidence: list[float] = (
            np.log(self.weights) + 0.5 * (np.linalg.slogdet(self.precisions)[1] - quadratic)
        ).tolist()
        return evidence

    def update(self, precision: Vector, linear: Vector) -> Beliefs:
        """Return the beliefs after a site exp(−½ yᵀΛy + ηᵀy).

        Args:
            precision: `[q, q]` Λ.
            linear: `[q]` η.

        Cost: O(K q³); 17 coordinates and one archetype take about 40 µs.
        """
        return FactoredBeliefs(self, precision, linear).invert()
