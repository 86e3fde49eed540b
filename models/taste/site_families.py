"""Sites of one kind, all at once, on the utilities u `[N]` of the texts that a user judged.

A family keeps its sites as one vector of parameters: it can add them to Λ and η, and renew them under the moments of
its own utilities. What each formula means stands in `likelihood`; here the posterior already includes the sites.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.taste import listwise
from penchant.models.taste.blocks import Blocks
from penchant.models.taste.likelihood import LOG_UNIFORM_RATING
from penchant.models.taste.moments import Moments, joint_without, without
from penchant.models.taste.observations import Pair, Ranking, Rating, Vote
from penchant.models.taste.population import Beliefs

Vector = NDArray[np.float64]
Index = NDArray[np.int64]


class Family(Protocol):
    """All judgements of one kind.

    Attributes:
        parameters: How many numbers their sites are.
    """

    parameters: int

    def add(self, sites: Vector, precision: Vector, linear: Vector) -> None:
        """Adds the sites to Λ (blocks) and η `[N]`, in place."""

    def renewed(self, sites: Vector, moments: Moments) -> Vector:
        """The sites under a posterior that includes them as they are."""

    def allowed(self, sites: Vector) -> bool:
        """Whether they are Gaussian sites at all: no negative precision."""


class Logistic:
    """σ(ψ)^power of J numbers ψ: pairs, u_winner − u_loser, or votes, ±u. Parameters: ω `[J]`, pull `[J]`.

    Args:
        said: J pairs, or J votes; the power of each one's likelihood, and its items `[width]`.
        width: 2 for pairs, 1 for votes.
        blocks: Where items meet.
    """

    def __init__(self, said: Sequence[tuple[Pair | Vote, float, Index]], width: int, blocks: Blocks) -> None:
        self.parameters = 2 * len(said)
        self._powers, self._flips = np.array([p for _, p, _ in said]), np.array([t.flip for t, _, _ in said])
        self._rows = rows = np.array([r for _, _, r in said], np.int64).reshape(-1, width)
        signs = [float(told.value) if isinstance(told, Vote) else 1.0 for told, _, _ in said]
        # ψ = Σ_i coefficient_i u_i over one or two items.
        pattern = np.array([1.0, -1.0])[:width]
        self._coefficients = np.array(signs)[:, None] * pattern
        self._places = blocks.at(rows[:, :, None], rows[:, None, :])
        self._signs = np.outer(pattern, pattern)

    def add(self, sites: Vector, precision: Vector, linear: Vector) -> None:
        """As in `Family`."""
        omega, pull = np.split(sites, 2)
        np.add.at(precision, self._places, omega[:, None, None] * self._signs)
        np.add.at(linear, self._rows, pull[:, None] * self._coefficients)

    def renewed(self, sites: Vector, moments: Moments) -> Vector:
        """As in `Family`: ξ² = E[ψ²]."""
        if self._rows.shape[1] == 2:
            means, variances = moments.difference(*self._rows.T)
        else:
            means, variances = moments.single(self._rows[:, 0])
            means = self._coefficients[:, 0] * means
        xi = np.sqrt(np.maximum(moments.weights @ (means**2 + variances), 1e-12))
        omega = np.where(xi < 1e-3, 0.25 - xi**2 / 48, np.tanh(xi / 2) / (2 * xi))
        right = np.ones(len(xi))
        if self._flips.any():
            weights, means, variances = without(moments.weights, means, variances, *np.split(sites, 2))
            chance = (weights * expit(means / np.sqrt(1 + np.pi / 8 * variances))).sum(axis=0)
            right = _responsibility(self._flips, chance, 1 - chance)
        return np.concatenate([self._powers * omega, self._powers * (right - 0.5)])

    def allowed(self, sites: Vector) -> bool:
        """As in `Family`."""
        return bool((sites[: self.parameters // 2] >= 0).all())


class Ratings:
    """Ratings of J items. Parameters: the power of each, `[J]`."""

    def __init__(self, said: Sequence[tuple[Rating, float, Index]], blocks: Blocks) -> None:
        self.parameters = len(said)
        self._powers, self._flips = np.array([p for _, p, _ in said]), np.array([t.flip for t, _, _ in said])
        self._rows = np.array([r for _, _, r in said], np.int64).reshape(-1)
        self._places = blocks.at(self._rows, self._rows)
        values = [(t.value, t.scale.offset, t.scale.slope, t.scale.noise) for t, _, _ in said]
        value, offset, self._slope, noise = np.array(values).reshape(-1, 4).T
        self._target, self._noise = (value - offset) / self._slope, (noise / self._slope) ** 2

    def add(self, sites: Vector, precision: Vector, linear: Vector) -> None:
        """As in `Family`."""
        np.add.at(precision, self._places, sites / self._noise)
        np.add.at(linear, self._rows, sites / self._noise * self._target)

    def renewed(self, sites: Vector, moments: Moments) -> Vector:
        """As in `Family`: exact, but for whether a rating is right at all."""
        if not self._flips.any():
            return self._powers
        own = sites / self._noise
        found = without(moments.weights, *moments.single(self._rows), own, own * self._target)
        weights, means, variances = found
        spread = variances + self._noise
        density = np.exp(-0.5 * (self._target - means) ** 2 / spread) / np.sqrt(2 * np.pi * spread)
        right = (weights * density).sum(axis=0) / np.abs(self._slope)
        return self._powers * _responsibility(self._flips, right, np.exp(LOG_UNIFORM_RATING))

    def allowed(self, sites: Vector) -> bool:
        """As in `Family`."""
        return bool((sites >= 0).all())


class Orders:
    """Choices and rankings. Parameters of each: η `[n]` and Λ `[n, n]`."""

    def __init__(self, said: Sequence[tuple[Ranking, float, Index]], blocks: Blocks) -> None:
        self._said, self._rows = said, [rows for _, _, rows in said]
        self._places = [blocks.at(items[:, None], items) for items in self._rows]
        self._ends = np.cumsum([len(items) * (1 + len(items)) for items in self._rows], dtype=np.int64)
        self.parameters = int(self._ends[-1]) if len(said) else 0

    def add(self, sites: Vector, precision: Vector, linear: Vector) -> None:
        """As in `Family`."""
        for items, places, (own_linear, own_precision) in zip(
            self._rows, self._places, self._split(sites), strict=True
        ):
            np.add.at(precision, places, own_precision)
            np.add.at(linear, items, own_linear)

    def renewed(self, sites: Vector, moments: Moments) -> Vector:
        """As in `Family`: Gaussian variational."""
        found = []
        for (told, weight, items), (linear, precision) in zip(self._said, self._split(sites), strict=True):
            power = weight
            means, covariances = moments.relative(items)
            if told.flip:
                before = joint_without(moments.weights, means, covariances, precision, linear)
                right = np.exp(listwise.log_probability(told.groups, Beliefs(*before)))
                wrong = np.exp(listwise.uniform_log_likelihood(told.groups))
                power *= float(_responsibility(told.flip, right, wrong))
            utilities = Beliefs(moments.weights, means, covariances)
            renewed, pull = listwise.expected_site(told.groups, utilities.mean, utilities.covariance, power)
            found += [pull, renewed.ravel()]
        return np.concatenate([np.zeros(0), *found])

    def allowed(self, sites: Vector) -> bool:
        """As in `Family`."""
        return all(np.linalg.eigvalsh(precision)[0] > -1e-9 for _, precision in self._split(sites))

    def _split(self, sites: Vector) -> list[tuple[Vector, Vector]]:
        parts = []
        for items, own in zip(self._rows, np.split(sites, self._ends[:-1]), strict=False):
            n = len(items)
            parts.append((own[:n], own[n:].reshape(n, n)))
        return parts


def _responsibility(flips: Vector | float, right: Vector | float, wrong: Vector | float) -> Vector:
    """P(the label is right), from its probability if it is and if it is not."""
    found, lost = (1 - flips) * right, flips * wrong
    return np.asarray(np.where(lost > 0, found / np.maximum(found + lost, 1e-300), 1.0))
