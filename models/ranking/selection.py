"""Probabilities of preference, of being chosen and of being acceptable, and the order of items.

All probabilities integrate over the user's posterior, the archetypes and the items' residuals:

    P(ψ > 0) = Σ_c w_c σ(T mean_c / √(1 + πv_c/8))        (MacKay 1992, eq. 10, with a temperature)

T multiplies the moderated logit, not the utility inside the root: comparisons of ratings without ties are easier to
predict than the noise of single ratings suggests, regardless of the uncertainty. T is chosen on held-out users.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.errors import ModelError
from penchant.models.taste.items import Items
from penchant.models.taste.logistic import moderated_logits
from penchant.models.taste.population import Beliefs
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.taste.sobol import sobol_draws

Vector = NDArray[np.float64]

DRAWS: Final = 512
"""Number of quasi-random draws for more than two candidates. The error of a probability is about 0.01."""


class NonFiniteScoreError(ModelError, ArithmeticError):
    """A score is NaN or infinite, so that items cannot be ordered by it."""


def order(scores: Vector) -> NDArray[np.int64]:
    """Return indices `[n]` by descending score; ties keep their order.

    Raises:
        NonFiniteScoreError: If a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise NonFiniteScoreError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
        )
    best_first: NDArray[np.int64] = (-scores).argsort(kind="stable")
    return best_first


def relevance(reward: RewardModel, posterior: UserPosterior, items: Items) -> Vector:
    """Return P(the user prefers the item to the population's reference answer), `[n]`. Cost: O(n K q²)."""
    return preference_probability(reward, posterior, items, reward.reference)


def preference_probability(reward: RewardModel, posterior: UserPosterior, a: Items, b: Items) -> Vector:
    """Return P(a ≻ b), row by row.

    Args:
        reward: Model with the temperature T.
        posterior: Posterior of the user.
        a: n items.
        b: n items, or one item to compare all of `a` with.

    Returns:
        `[n]`, exactly ½ if both are the same text.
    """
    return _average(
        reward.temperature, posterior.archetype_weights, preference_logits(posterior.beliefs, a, b)
    )


def preference_logits(beliefs: Beliefs, a: Items, b: Items) -> Vector:
    """Return moderated logits mean_c / √(1 + πv_c/8) of a ≻ b under each archetype, `[K, n]`; 0 for equal texts."""
    difference = a.features - b.features
    means = (a.base - b.base) + beliefs.means @ difference.T
    user = ((difference @ beliefs.covariances) * difference).sum(axis=2)
    second = beliefs.second_moments[:, 1:]
    residual = (a.base_variance + b.base_variance) + second @ (a.direction_variance + b.direction_variance).T
    logits = moderated_logits(means, user + residual)
    same = [
        i
        for i, (key, other) in enumerate(zip(a.keys, b.keys * (len(a) // len(b)), strict=True))
        if key == other
    ]
    logits[:, same] = 0.0
    return logits


def probability_acceptable(reward: RewardModel, posterior: UserPosterior, items: Items) -> Vector:
    """Return P(the user would vote +1), `[n]`: utility relative to the user's own threshold."""
    means, variances = posterior.utility_by_archetype(items)
    return _average(reward.temperature, posterior.archetype_weights, moderated_logits(means, variances))


def probability_best(reward: RewardModel, posterior: UserPosterior, items: Items) -> Vector:
    """Return P(the user chooses the item among all of these), `[n]`, sum 1.

    For two items this is `preference_probability`. For more it is the Plackett–Luce choice E[softmax(T mean + e)],
    averaged over archetypes and over the joint deviation e of user and residuals. The average uses scrambled Sobol
    draws of a fixed seed, so that equal requests get equal answers. Cost: O(K · draws · n q).
    """
    n = len(items)
    if n == 1:
        return np.ones(1)
    if n == 2:
        first = float(preference_probability(reward, posterior, items[0], items[1])[0])
        return np.array([first, 1 - first])
    beliefs, features = posterior.beliefs, items.features
    unique, inverse = np.unique(np.array([k.hex() for k in items.keys]), return_inverse=True)
    residual = np.sqrt(posterior.residual_by_archetype(items))
    q = features.shape[1]
    width = q + len(unique)
    draws = sobol_draws(1 << (width - 1).bit_length(), DRAWS)  # powers of two, so that the cache stays small
    user_draws, residual_draws = draws[:, :q], draws[:, q:width][:, inverse]
    total = np.zeros(n)
    for c, weight in enumerate(beliefs.weights):
        mean = items.base + features @ beliefs.means[c]
        deviation = (
            user_draws @ np.linalg.cholesky(beliefs.covariances[c]).T @ features.T
            + residual_draws * residual[c]
        )
        scaled = reward.temperature * mean + deviation
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        total += weight * (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
    probabilities: Vector = total / total.sum()
    return probabilities


def _average(temperature: float, weights: Vector, logits: Vector) -> Vector:
    """Σ_c w_c σ(T logit_c), `[n]`, from logits `[K, n]`."""
    probability: Vector = weights @ expit(temperature * logits)
    return probability
