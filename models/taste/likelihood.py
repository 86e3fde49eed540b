"""The evidence that a judgement gives about a user: one Gaussian site in natural parameters.

A judgement depends on utilities ψ = b + φ·y + e: base utility b, features φ `[q]` of the judged items, user y, and
e ~ N(0, r), the item residual that the text does not predict. With e integrated out, the site of a single ψ is

    exp(−½ ω' (φ·y)² + l (φ·y)),   ω' = ω/(1 + ωr),   l = ω' (m − b)

where m is a pseudo-observation of ψ and ω its precision. They are exact for a rating. For a vote or pair (ψ being the
difference) they are those of the Jaakkola–Jordan bound, m = y/(2ω); see `logistic`. A choice or ranking of more than two
items is one site on all its utilities; see `listwise`.

`weight` in (0, 1] is a power of the likelihood. `flip` is the rate ε of wrong labels of the source: a wrong pair or
vote is reversed, a wrong rating or ranking is uniform noise. With r the probability that this label is correct, given
the beliefs about the user, the linear term of a pair or vote is multiplied by 2r − 1 and its precision stays, and the
whole site of a rating or ranking is multiplied by r.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penchant.models.errors import ModelError
from penchant.models.taste import listwise
from penchant.models.taste.linear_predictor import LinearPredictor
from penchant.models.taste.logistic import expected_sigmoid, optimal_precision, safe_log, sigmoid
from penchant.models.taste.observations import (
    LinearJudgement,
    Observation,
    Pair,
    Ranking,
    Rating,
    RatingScale,
    Vote,
)
from penchant.models.taste.population import Beliefs, FactoredBeliefs, Mixture

LOG_UNIFORM_RATING: Final = -math.log(2)
"""Log density of uniform noise on [-1, 1]."""

Vector = NDArray[np.float64]


class LikelihoodError(ModelError, ValueError):
    """An observation is not valid, so that no evidence follows from it."""


class RankOneSite(NamedTuple):
    """exp(−½ ω(φ·y)² + lφ·y): evidence of a pair, vote or rating.

    Attributes:
        direction: `[q]` φ.
        projected_precision: ω, at least 0.
        projected_linear: l.
        log_likelihood_ratio: Log probability of the judgement by a new user minus that by this user.
    """

    direction: Vector
    projected_precision: float
    projected_linear: float
    log_likelihood_ratio: float

    @property
    def precision(self) -> Vector:
        """`[q, q]` ωφφᵀ, symmetric to the bit."""
        scaled = math.sqrt(self.projected_precision) * self.direction
        precision: Vector = scaled[:, None].dot(scaled[None])
        return precision

    @property
    def linear(self) -> Vector:
        """`[q]` lφ."""
        return self.projected_linear * self.direction


class LowRankSite(NamedTuple):
    """exp(−½ uᵀCu + pᵀu), u = Fy: evidence of a choice or ranking.

    Attributes:
        directions: `[r, q]` F.
        projected_precision: `[r, r]` C, symmetric positive semidefinite.
        projected_linear: `[r]` p.
        log_likelihood_ratio: Log probability of the judgement by a new user minus that by this user.
    """

    directions: Vector
    projected_precision: Vector
    projected_linear: Vector
    log_likelihood_ratio: float

    @property
    def precision(self) -> Vector:
        """`[q, q]` FᵀCF, symmetric to the bit."""
        precision: Vector = self.directions.T @ self.projected_precision @ self.directions
        return 0.5 * (precision + precision.T)

    @property
    def linear(self) -> Vector:
        """`[q]` Fᵀp."""
        linear: Vector = self.projected_linear @ self.directions
        return linear


Site = RankOneSite | LowRankSite
AnyBeliefs = Beliefs | FactoredBeliefs


def compute_site(observation: Observation, user: AnyBeliefs, prior: AnyBeliefs) -> Site:
    """Return the site of a judgement.

    Args:
        observation: The judgement.
        user: Beliefs about the user before the judgement.
        prior: Beliefs about a new user.

    Raises:
        LikelihoodError: If the observation is not valid, see `_read`.

    Cost: O(K q²) for a pair, vote or rating; that of `listwise.gaussian_site` for a choice or ranking.
    """
    judgement = _read(observation)
    if isinstance(judgement, Ranking):
        return _ranking_site(judgement, user, prior)
    predictor, weight, _, value, scale = judgement
    mixture, residual = predictor.project(user)
    log_likelihood, responsibility = _log_likelihood(judgement, mixture)
    ratio = 0.0
    if prior is not user:
        ratio = _log_likelihood(judgement, predictor.project(prior)[0])[0] - log_likelihood
    if value is not None and scale is not None:
        # r = o + β(b + φ·y + e) + ε: exact given the residual variance.
        power = weight * responsibility
        variance = (scale.noise / scale.slope) ** 2 + power * residual
        target = (value - scale.offset) / scale.slope
        precision, linear = power / variance, power * (target - predictor.base) / variance
    else:
        bound_linear = weight * (responsibility - 0.5)
        omega = optimal_precision(mixture, weight, bound_linear)
        denominator = 1 + omega * residual
        precision = omega / denominator
        linear = (bound_linear - omega * predictor.base) / denominator
    return RankOneSite(predictor.direction, precision, linear, ratio)


def log_probability(observation: Observation, beliefs: AnyBeliefs) -> float:
    """Return the log probability of a judgement (the log density of a rating) by a user with these beliefs.

    Raises:
        LikelihoodError: If the observation is not valid, see `_read`.
    """
    judgement = _read(observation)
    if isinstance(judgement, Ranking):
        utilities, _, _ = _relative_utilities(judgement, beliefs)
        return _marginal(judgement.flip, *_ranking_log_likelihoods(judgement, utilities))
    return _log_likelihood(judgement, judgement.predictor.project(beliefs)[0])[0]


def _read(observation: Observation) -> LinearJudgement | Ranking:
    """Return an observation as the likelihood reads it. A ranking of two items becomes a pair.

    Raises:
        LikelihoodError: If the weight is outside (0, 1], the flip rate outside [0, 1], a vote neither 1 nor −1, a rating
            not finite, or the groups of a ranking do not add up to its items.
    """
    if not 0 < observation.weight <= 1:
        raise LikelihoodError(f"weight must be in (0, 1], is {observation.weight}")
    if not 0 <= observation.flip <= 1:
        raise LikelihoodError(f"flip must be in [0, 1], is {observation.flip}")
    judgement = _linearise(observation)
    if isinstance(judgement, Ranking):
        n, groups = len(judgement.items), judgement.groups
        if n < 2 or min(groups, default=0) < 1 or sum(groups) != n:
            raise LikelihoodError(f"groups {groups} do not order {n} items")
    elif judgement.value is not None and not math.isfinite(judgement.value):
        raise LikelihoodError(f"a rating must be finite, is {judgement.value}")
    return judgement


def _linearise(observation: Observation) -> LinearJudgement | Ranking:
    """Return an observation with its linear predictor; a ranking of more than two items as it is."""
    weight, flip = observation.weight, observation.flip
    match observation:
        case LinearJudgement():
            return observation
        case Pair(winner, loser):
            return LinearJudgement(LinearPredictor(winner, loser), weight, flip)
        case Vote(item, value):
            if value not in (-1, 1):
                raise LikelihoodError(f"a vote must be 1 or -1, is {value}")
            return LinearJudgement(LinearPredictor(item, sign=float(value)), weight, flip)
        case Rating(item, value, scale):
            return LinearJudgement(LinearPredictor(item), weight, flip, value, scale)
        case Ranking(items, (1, 1)) if len(items) == 2:
            return LinearJudgement(LinearPredictor(items[0], items[1]), weight, flip)
        case _:
            return observation


def _log_likelihood(judgement: LinearJudgement, mixture: Mixture) -> tuple[float, float]:
    """Return the log probability of a pair or vote (the log density of a rating), and P(the label is correct)."""
    flip = judgement.flip
    if judgement.value is not None and judgement.scale is not None:
        correct = _log_density(mixture, judgement.value, judgement.scale)
        return _marginal(flip, correct, LOG_UNIFORM_RATING), _responsibility(
            flip, correct, LOG_UNIFORM_RATING
        )
    right = expected_sigmoid(mixture)
    if not flip:
        return safe_log(right), 1.0
    likelihood = (1 - flip) * right + flip * (1 - right)
    return safe_log(likelihood), 0.0 if flip == 1 else (1 - flip) * right / likelihood


def _log_density(mixture: Mixture, value: float, scale: RatingScale) -> float:
    """Log density at `value` of a rating r = offset + slope·ψ + N(0, noise²)."""
    logs = []
    for w, a, v in mixture:
        variance = scale.slope * scale.slope * v + scale.noise * scale.noise
        error = value - scale.offset - scale.slope * a
        logs.append(safe_log(w) - 0.5 * (error * error / variance + math.log(2 * math.pi * variance)))
    largest = max(logs)
    return largest + math.log(sum(math.exp(log - largest) for log in logs))


def _ranking_site(ranking: Ranking, user: AnyBeliefs, prior: AnyBeliefs) -> LowRankSite:
    """One site on all utilities; the residuals are integrated out afterwards."""
    utilities, directions, residual = _relative_utilities(ranking, user)
    correct, wrong = _ranking_log_likelihoods(ranking, utilities)
    ratio = 0.0
    if prior is not user:
        ratio = log_probability(ranking, prior) - _marginal(ranking.flip, correct, wrong)
    power = ranking.weight * _responsibility(ranking.flip, correct, wrong)
    precision, linear = listwise.gaussian_site(ranking.groups, utilities, power)
    linear = linear - precision @ (ranking.items.base - ranking.items.base[-1])
    precision, linear = listwise.integrate_out_residuals(precision, linear, residual)
    return LowRankSite(directions[:-1], precision[:-1, :-1], linear[:-1], ratio)


def _ranking_log_likelihoods(ranking: Ranking, utilities: Beliefs) -> tuple[float, float]:
    """Log probability of the order if it is correct, and if it is random."""
    correct = listwise.log_probability(ranking.groups, utilities)
    return correct, listwise.uniform_log_likelihood(ranking.groups)


def _relative_utilities(ranking: Ranking, beliefs: AnyBeliefs) -> tuple[Beliefs, Vector, Vector]:
    """Utilities relative to the last item's, their features `[n, q]`, and the residuals' covariance `[n, n]`.

    Only differences are compared: relative to the last item the threshold cancels exactly.
    """
    items = ranking.items
    directions = items.features - items.features[-1]
    uncertain = np.flatnonzero(items.direction_variance.any(axis=0))
    along, squares = beliefs.project(directions, tuple((uncertain + 1).tolist()))
    variances = items.base_variance + items.direction_variance[:, uncertain] @ squares
    same = np.array([[key == other for other in items.keys] for key in items.keys])
    residual = np.where(same, variances, 0.0)  # equal texts share one residual
    relative_residual = residual - residual[-1] - residual[:, -1:] + residual[-1, -1]
    means = items.base - items.base[-1] + along.means
    return Beliefs(along.weights, means, along.covariances + relative_residual), directions, residual


def _marginal(flip: float, correct: float, wrong: float) -> float:
    """log((1 − ε) e^correct + ε e^wrong): the log probability with the unknown correctness of the label summed out."""
    if not flip:
        return correct
    right, reversed_ = safe_log(1 - flip) + correct, safe_log(flip) + wrong
    largest = max(right, reversed_)
    if not math.isfinite(largest):
        return largest
    return largest + math.log1p(math.exp(min(right, reversed_) - largest))


def _responsibility(flip: float, correct: float, wrong: float) -> float:
    """P(the label is correct), given the judgement."""
    if not flip:
        return 1.0
    return 0.0 if flip == 1 else sigmoid(safe_log(1 - flip) + correct - safe_log(flip) - wrong)
