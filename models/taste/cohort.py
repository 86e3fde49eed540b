"""Many users at once: what `UserPosterior.learn` does, one judgement a step for all users together.

An evaluation learns tens of thousands of judgements for every setting it tries. Here a step is one rank-one update of
all users that still have a judgement: the sites and the numbers of one user at a time (a test compares them), twenty
times faster. Rank-one judgements only (pairs, votes, ratings), and no change points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.contrast import TILT
from penchant.models.taste.items import Items
from penchant.models.taste.population import Beliefs, Population
from penchant.models.taste.rescues import rescues
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

MAX_ITERATIONS: Final = 64
TOLERANCE: Final = 1e-6
"""Of a step before it is accelerated; what is left after that is of the order of its square."""

SMALLEST: Final = 1e-12
"""Of ξ²."""


@dataclass(frozen=True)
class Steps:
    """Judgements of U users in the order in which they are learned, at most T each, padded with weight 0.

    Attributes:
        direction: `[U, T, q]` φ of what was judged: a difference for a pair.
        base: `[U, T]` its base utility, likewise.
        base_variance: `[U, T]` item residuals of the base.
        direction_variance: `[U, T, q − 1]` item residuals of the directions.
        label: `[U, T]` ±1 of a logistic judgement, the target utility of a rating.
        noise: `[U, T]` variance of a rating in units of utility; 0 marks a logistic judgement.
        weight: `[U, T]` power of the likelihood; 0 says nothing.
        flip: `[U, T]` probability that a pair or vote is the reverse of what is meant, or a rating says nothing.
        slope: `[U, T]` of a rating's scale, 1 otherwise.
    """

    direction: Vector
    base: Vector
    base_variance: Vector
    direction_variance: Vector
    label: Vector
    noise: Vector
    weight: Vector
    flip: Vector
    slope: Vector

    def at(self, on: NDArray[np.int64], t: int) -> "Steps":
        """Step t of the users `on`, the axis of time dropped."""
        return Steps(*(getattr(self, column.name)[on, t] for column in fields(self)))

    @classmethod
    def of(
        cls,
        reward: RewardModel,
        items: Items,
        said: Sequence[Sequence[tuple[Judgement, Sequence[int]]]],
    ) -> "Steps":
        """Steps of U users.

        Args:
            reward: Gives rating scales.
            items: All judged texts.
            said: Per user, judgements with the rows of their texts among the items, winner first.
        """
        shape = len(said), max(map(len, said), default=0)
        first, second = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        label, noise, weight = np.ones(shape), np.zeros(shape), np.zeros(shape)
        flip, slope = np.zeros(shape), np.ones(shape)
        for u, judgements in enumerate(said):
            for t, (judgement, rows) in enumerate(judgements):
                first[u, t], weight[u, t] = rows[0], judgement.weight
                flip[u, t] = reward.flip(judgement.source)
                if judgement.kind == "rating":
                    scale = reward.rating_scale(judgement.source)
                    label[u, t] = (judgement.normalised - scale.offset) / scale.slope
                    noise[u, t], slope[u, t] = (scale.noise / scale.slope) ** 2, scale.slope
                elif judgement.kind == "vote":
                    label[u, t] = judgement.value
                elif rows[0] == rows[1] or judgement.groups == (2,):
                    weight[u, t] = 0.0
                else:
                    second[u, t] = rows[1]
        compared = second >= 0

        def both(values: Vector, sign: float) -> Vector:
            wide = values if values.ndim == 2 else values[:, None]
            found: Vector = wide[first]
            found[compared] += sign * wide[second[compared]]
            return found if values.ndim == 2 else found[:, :, 0]

        return cls(
            both(items.features, -1.0),
            both(items.base, -1.0),
            both(items.base_variance, 1.0),
            both(items.direction_variance, 1.0),
            label,
            noise,
            weight,
            flip,
            slope,
        )


def learn_online(
    population: Population, steps: Steps, shots: Sequence[int]
) -> Iterator[tuple[int, list[Beliefs]]]:
    """Beliefs about every user after each of `shots` judgements, ascending.

    Args:
        population: Prior over users.
        steps: What they said.
        shots: Numbers of judgements; more than T means all.

    Yields:
        A number of judgements, and U beliefs.

    Cost: O(U K q²) a step.
    """
    n_users, length = steps.weight.shape
    cohort = _Cohort(
        np.tile(np.log(population.weights), (n_users, 1)),
        np.tile(population.means, (n_users, 1, 1)),
        np.tile(population.prior.covariances, (n_users, 1, 1, 1)),
    )
    lengths = ((steps.weight > 0) * (1 + np.arange(length))).max(axis=1, initial=0)
    done = 0
    for shot in sorted(shots):
        for t in range(done, min(shot, length)):
            on = np.flatnonzero(lengths > t)
            cohort.put(on, cohort.at(on).learn(steps.at(on, t)))
        done = max(done, shot)
        yield shot, cohort.beliefs()


@dataclass(frozen=True)
class _Cohort:
    """U users: log weights `[U, K]` (unnormalised), means `[U, K, q]`, covariances `[U, K, q, q]`."""

    log_weights: Vector
    means: Vector
    covariances: Vector

    def at(self, on: NDArray[np.int64]) -> "_Cohort":
        return _Cohort(self.log_weights[on], self.means[on], self.covariances[on])

    def put(self, on: NDArray[np.int64], some: "_Cohort") -> None:
        self.log_weights[on], self.means[on] = some.log_weights, some.means
        self.covariances[on] = some.covariances

    @property
    def weights(self) -> Vector:
        weights: Vector = np.exp(self.log_weights - self.log_weights.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def beliefs(self) -> list[Beliefs]:
        weights = self.weights
        return [
            Beliefs(weights[u], self.means[u].copy(), self.covariances[u].copy()) for u in range(len(weights))
        ]

    def learn(self, step: Steps) -> "_Cohort":
        """One judgement of every user: a rank-one update of each archetype."""
        second = self.means**2 + np.diagonal(self.covariances, axis1=2, axis2=3)
        second = np.einsum("uc,ucq->uq", self.weights, second)[:, 1:]
        residual = step.base_variance + (step.direction_variance * second).sum(axis=1)
        across = np.einsum("ucij,uj->uci", self.covariances, step.direction)
        centre = np.einsum("uci,ui->uc", self.means, step.direction)
        spread = np.einsum("uci,ui->uc", across, step.direction)
        psi = _Psi(self.weights, step.base[:, None] + centre, spread + residual[:, None], residual)
        precision, linear = (column[:, None] for column in psi.site(step))
        damped = 1 + precision * spread
        evidence = (2 * linear * centre + linear**2 * spread - precision * centre**2) / damped - np.log(
            damped
        )
        gain = (linear - precision * centre) / damped
        shrink = (precision / damped)[:, :, None, None]
        return _Cohort(
            self.log_weights + 0.5 * evidence,
            self.means + gain[:, :, None] * across,
            self.covariances - shrink * across[:, :, :, None] * across[:, :, None, :],
        )


@dataclass(frozen=True)
class _Psi:
    """What each judgement is about: archetype weights, centre and variance `[u, K]` of ψ, its item residual `[u]`."""

    weights: Vector
    centre: Vector
    spread: Vector
    residual: Vector

    def site(self, step: Steps) -> tuple[Vector, Vector]:
        """Precision and linear term `[u]` along φ, the item residual integrated out: the formulas of `likelihood`."""
        rated = step.noise > 0
        pull, power = self._doubted(step)
        xi = np.zeros_like(pull) if rated.all() else self._tilt(step.weight, pull)
        omega = step.weight * bound_precision(xi)
        damped = 1 + omega * self.residual
        noise = np.where(rated, step.noise, 1.0) + power * self.residual
        precision = np.where(rated, power / noise, omega / damped)
        linear = np.where(
            rated, power * (step.label - step.base) / noise, (pull - omega * step.base) / damped
        )
        return precision, linear

    def _doubted(self, step: Steps) -> tuple[Vector, Vector]:
        """Linear term of a logistic judgement and power of a rating, given how likely the label is right."""
        pull, power = 0.5 * step.label * step.weight, step.weight
        if not step.flip.any():
            return pull, power
        logit = step.label[:, None] * self.centre / np.sqrt(1 + np.pi / 8 * self.spread)
        chance = (self.weights * expit(logit)).sum(axis=1)
        right = _responsibility(step.flip, chance, 1 - chance)
        total = self.spread + step.noise[:, None]
        density = np.exp(-0.5 * (step.label[:, None] - self.centre) ** 2 / total) / np.sqrt(2 * np.pi * total)
        density = (self.weights * density).sum(axis=1) / step.slope
        return pull * (2 * right - 1), power * _responsibility(step.flip, density, np.full_like(density, 0.5))

    def _tilt(self, weight: Vector, pull: Vector) -> Vector:
        """ξ at the fixed point of ξ² = Σ_c w_c E_c[ψ²], by Steffensen's method, as `contrast.tilt`."""
        xi: Vector = np.sqrt(
            np.maximum((self.weights * (self.centre**2 + self.spread)).sum(axis=1), SMALLEST)
        )
        for _ in range(MAX_ITERATIONS):
            first = self._refined(xi, weight, pull)
            second = self._refined(first, weight, pull)
            step = second - first
            bend = step - (first - xi)
            jump = np.divide(step * step, bend, out=np.zeros_like(bend), where=bend != 0)
            xi = np.where(second > jump, second - jump, second)
            missed = np.abs(step) > TOLERANCE * np.maximum(1.0, xi)
            if not missed.any():
                break
        else:
            rescues.add(
                TILT,
                residual=float((np.abs(step) / np.maximum(1.0, xi)).max()),
                tolerance=TOLERANCE,
                steps=MAX_ITERATIONS,
                number=int(missed.sum()),
            )
        return xi

    def _refined(self, xi: Vector, weight: Vector, pull: Vector) -> Vector:
        """√E[ψ²] under the posterior with a site of this ξ."""
        shrink = 1 / (1 + (weight * bound_precision(xi))[:, None] * self.spread)
        mean = shrink * (self.centre + pull[:, None] * self.spread)
        second = (self.weights * (mean * mean + shrink * self.spread)).sum(axis=1)
        found: Vector = np.sqrt(np.maximum(second, SMALLEST))
        return found


def _responsibility(flip: Vector, right: Vector, wrong: Vector) -> Vector:
    """P(the label is right) from its probability if right and if wrong; 1 where no label of the source is wrong."""
    total = (1 - flip) * right + flip * wrong
    found: Vector = np.where(flip > 0, (1 - flip) * right / np.maximum(total, 1e-300), 1.0)
    return found


def bound_precision(xi: Vector) -> Vector:
    """tanh(ξ/2)/(2ξ), ¼ at 0, elementwise."""
    safe = np.maximum(xi, 1e-3)
    omega: Vector = np.where(xi < 1e-3, 0.25 - xi * xi / 48, np.tanh(safe / 2) / (2 * safe))
    return omega


def is_rank_one(judgement: Judgement) -> bool:
    """Whether a judgement is about one number: all but choices and rankings of more than two texts."""
    return len(judgement.texts) <= 2
