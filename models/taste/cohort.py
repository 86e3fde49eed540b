"""Many users at once: the updates of `UserPosterior.learn`, one judgement per step for all users together.

An evaluation learns tens of thousands of judgements for every setting that it tries. A step is one rank-one update of
all users who have another judgement. The results agree with those of `UserPosterior` (a test compares them), twenty
times faster. Only rank-one judgements (pairs, votes, ratings) are supported, and changes of users are not detected.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import Items
from penchant.models.taste.logistic import expected_sigmoid_array, optimal_precision_array
from penchant.models.taste.population import Beliefs, Population
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class JudgementSteps:
    """Judgements of U users in the order in which they are learned, at most T each, padded with weight 0.

    Attributes:
        direction: `[U, T, q]` φ of the judged item; the difference of both items for a pair.
        base: `[U, T]` base utility of the judged item; the difference for a pair.
        base_variance: `[U, T]` residual variance of the base utility; the sum for a pair.
        direction_variance: `[U, T, q − 1]` residual variance of the directions; the sum for a pair.
        label: `[U, T]` ±1 for a pair or vote, the target utility for a rating.
        noise: `[U, T]` variance of a rating in units of utility; 0 for a pair or vote.
        weight: `[U, T]` power of the likelihood; a judgement of weight 0 carries no information.
        flip: `[U, T]` probability that a pair or vote is reversed, or that a rating is uniform noise.
        slope: `[U, T]` slope of a rating's scale, 1 for a pair or vote.
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

    def select(self, users: NDArray[np.int64], t: int) -> "JudgementSteps":
        """Return step t of some users, without the axis of time."""
        return JudgementSteps(*(getattr(self, column.name)[users, t] for column in fields(self)))

    @classmethod
    def build(
        cls,
        reward: RewardModel,
        items: Items,
        histories: Sequence[Sequence[tuple[Judgement, Sequence[int]]]],
    ) -> "JudgementSteps":
        """Return the steps of U users.

        Args:
            reward: Model with the rating scales and rates of wrong labels.
            items: All judged texts.
            histories: Judgements of each user, with the rows of their texts among the items, winner first.
        """
        shape = len(histories), max(map(len, histories), default=0)
        first, second = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        label, noise, weight = np.ones(shape), np.zeros(shape), np.zeros(shape)
        flip, slope = np.zeros(shape), np.ones(shape)
        for u, judgements in enumerate(histories):
            for t, (judgement, rows) in enumerate(judgements):
                first[u, t], weight[u, t] = rows[0], judgement.weight
                flip[u, t] = reward.flip(judgement.source)
                if judgement.form == "rating":
                    scale = reward.rating_scale(judgement.source)
                    label[u, t] = (judgement.normalised - scale.offset) / scale.slope
                    noise[u, t], slope[u, t] = (scale.noise / scale.slope) ** 2, scale.slope
                elif judgement.form == "vote":
                    label[u, t] = judgement.value
                elif rows[0] == rows[1] or judgement.groups == (2,):
                    weight[u, t] = 0.0
                else:
                    second[u, t] = rows[1]
        is_pair = second >= 0

        def combine(values: Vector, sign: float) -> Vector:
            columns = values if values.ndim == 2 else values[:, None]
            combined: Vector = columns[first]
            combined[is_pair] += sign * columns[second[is_pair]]
            return combined if values.ndim == 2 else combined[:, :, 0]

        return cls(
            combine(items.features, -1.0),
            combine(items.base, -1.0),
            combine(items.base_variance, 1.0),
            combine(items.direction_variance, 1.0),
            label,
            noise,
            weight,
            flip,
            slope,
        )


def learn_online(
    population: Population, steps: JudgementSteps, shots: Sequence[int]
) -> Iterator[tuple[int, list[Beliefs]]]:
    """Yield the beliefs about all users after each of `shots` judgements, in ascending order.

    Args:
        population: Prior over users.
        steps: The users' judgements.
        shots: Numbers of judgements; more than T means all.

    Yields:
        A number of judgements, and the U beliefs after it.

    Cost: O(U K q²) per step.
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
            users = np.flatnonzero(lengths > t)
            cohort.assign(users, cohort.select(users).learn(steps.select(users, t)))
        done = max(done, shot)
        yield shot, cohort.beliefs()


@dataclass(frozen=True)
class _Cohort:
    """U users: log weights `[U, K]` (unnormalised), means `[U, K, q]`, covariances `[U, K, q, q]`."""

    log_weights: Vector
    means: Vector
    covariances: Vector

    def select(self, users: NDArray[np.int64]) -> "_Cohort":
        return _Cohort(self.log_weights[users], self.means[users], self.covariances[users])

    def assign(self, users: NDArray[np.int64], updated: "_Cohort") -> None:
        self.log_weights[users], self.means[users] = updated.log_weights, updated.means
        self.covariances[users] = updated.covariances

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

    def learn(self, step: JudgementSteps) -> "_Cohort":
        """Beliefs after one judgement of every user: a rank-one update of each archetype."""
        second_moments = self.means**2 + np.diagonal(self.covariances, axis1=2, axis2=3)
        second_moments = np.einsum("uc,ucq->uq", self.weights, second_moments)[:, 1:]
        residual = step.base_variance + (step.direction_variance * second_moments).sum(axis=1)
        product = np.einsum("ucij,uj->uci", self.covariances, step.direction)
        mean = np.einsum("uci,ui->uc", self.means, step.direction)
        variance = np.einsum("uci,ui->uc", product, step.direction)
        predictors = _Predictors(
            self.weights, step.base[:, None] + mean, variance + residual[:, None], residual
        )
        precision, linear = (column[:, None] for column in predictors.site(step))
        denominator = 1 + precision * variance
        exponent = (2 * linear * mean + linear**2 * variance - precision * mean**2) / denominator
        evidence = exponent - np.log(denominator)
        gain = (linear - precision * mean) / denominator
        shrinkage = (precision / denominator)[:, :, None, None]
        return _Cohort(
            self.log_weights + 0.5 * evidence,
            self.means + gain[:, :, None] * product,
            self.covariances - shrinkage * product[:, :, :, None] * product[:, :, None, :],
        )


@dataclass(frozen=True)
class _Predictors:
    """Distribution of each user's linear predictor ψ: a mixture `[u, K]`, and its item residual `[u]`."""

    weights: Vector
    means: Vector
    variances: Vector
    residual: Vector

    def site(self, step: JudgementSteps) -> tuple[Vector, Vector]:
        """Precision and linear term `[u]` along φ, the item residual integrated out, as in `likelihood`."""
        is_rating = step.noise > 0
        bound_linear, power = self._reliable_evidence(step)
        omega = np.zeros_like(power)
        if not is_rating.all():
            omega = optimal_precision_array(
                self.weights, self.means, self.variances, step.weight, bound_linear
            )
        denominator = 1 + omega * self.residual
        noise = np.where(is_rating, step.noise, 1.0) + power * self.residual
        precision = np.where(is_rating, power / noise, omega / denominator)
        linear = np.where(
            is_rating,
            power * (step.label - step.base) / noise,
            (bound_linear - omega * step.base) / denominator,
        )
        return precision, linear

    def _reliable_evidence(self, step: JudgementSteps) -> tuple[Vector, Vector]:
        """Linear term of a logistic judgement and power of a rating, given the probability that the label is correct."""
        linear, power = 0.5 * step.label * step.weight, step.weight
        if not step.flip.any():
            return linear, power
        correct = expected_sigmoid_array(self.weights, step.label[:, None] * self.means, self.variances)
        is_correct = _responsibility(step.flip, correct, 1 - correct)
        total = self.variances + step.noise[:, None]
        density = np.exp(-0.5 * (step.label[:, None] - self.means) ** 2 / total) / np.sqrt(2 * np.pi * total)
        density = (self.weights * density).sum(axis=1) / step.slope
        is_informative = _responsibility(step.flip, density, np.full_like(density, 0.5))
        return linear * (2 * is_correct - 1), power * is_informative


def _responsibility(flip: Vector, correct: Vector, wrong: Vector) -> Vector:
    """P(the label is correct), given the judgement's probability if it is correct and if it is wrong; 1 if flip is 0."""
    total = (1 - flip) * correct + flip * wrong
    responsibility: Vector = np.where(flip > 0, (1 - flip) * correct / np.maximum(total, 1e-300), 1.0)
    return responsibility


def is_rank_one(judgement: Judgement) -> bool:
    """Return whether the site of a judgement has rank one: true unless it compares more than two texts."""
    return len(judgement.texts) <= 2
