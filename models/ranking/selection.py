"""From posterior to decision: who beats whom, what is good enough, and in which order.

All probabilities integrate over the user's posterior, the archetypes and the items' residuals:

    P(ψ > 0) = Σ_c w_c σ(T mean_c / √(1 + πv_c/8))        (MacKay 1992, eq. 10, with a temperature)

T multiplies the smoothed logit, not the utility inside the root: comparisons of ratings without ties are easier than the
noise of single ratings says, whatever the uncertainty; it was chosen on held-out users.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.errors import ModelError
from penchant.models.taste.items import Items
from penchant.models.taste.population import Beliefs
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.taste.sobol import sobol_draws

Vector = NDArray[np.float64]

DRAWS: Final = 512
"""Quasi-random draws for more than two candidates: probabilities are right to about 0.01."""


class NonFiniteScoreError(ModelError, ArithmeticError):
    """A score is NaN or infinite; ordering by it would be meaningless."""


def order(scores: Vector) -> NDArray[np.int64]:
    """Indices `[n]` by descending score, ties by index.

    Raises:
        NonFiniteScoreError: A score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise NonFiniteScoreError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
        )
    best_first: NDArray[np.int64] = (-scores).argsort(kind="stable")
    return best_first


def relevance(reward: RewardModel, posterior: UserPosterior, items: Items) -> Vector:
    """P(this user prefers the item to the population's reference answer), `[n]`. Cost: O(n K q²)."""
    return preference_probability(reward, posterior, items, reward.reference)


def preference_probability(reward: RewardModel, posterior: UserPosterior, a: Items, b: Items) -> Vector:
    """P(a ≻ b), row by row.

    Args:
        reward: Gives the temperature T.
        posterior: The user.
        a: n items.
        b: n items, or one for all.

    Returns:
        `[n]`; exactly ½ where both are the same text.
    """
    return _mixed(reward.temperature, posterior.archetype_weights, preference_logits(posterior.beliefs, a, b))


def preference_logits(beliefs: Beliefs, a: Items, b: Items) -> Vector:
    """Smoothed logits mean_c / √(1 + πv_c/8) of a ≻ b under each archetype, `[K, n]`; 0 where both are the same text."""
    difference = a.features - b.features
    means = (a.base - b.base) + beliefs.means @ difference.T
    user = ((difference @ beliefs.covariances) * difference).sum(axis=2)
    second = beliefs.second_moments[:, 1:]
    residual = (a.base_variance + b.base_variance) + second @ (a.direction_variance + b.direction_variance).T
    logits = _smoothed(means, user + residual)
    same = [
        i
        for i, (key, other) in enumerate(zip(a.keys, b.keys * (len(a) // len(b)), strict=True))
        if key == other
    ]
    logits[:, same] = 0.0
    return logits


def probability_acceptable(reward: RewardModel, posterior: UserPosterior, items: Items) -> Vector:
    """P(this user would vote +1), `[n]`: the utility against the user's own threshold."""
    means, variances = posterior.utility_by_archetype(items)
    return _mixed(reward.temperature, posterior.archetype_weights, _smoothed(means, variances))


def probability_best(reward: RewardModel, posterior: UserPosterior, items: Items) -> Vector:
    """P(the user, asked to choose among these, chooses the item), `[n]`, sum 1.

    For two items this is P(a ≻ b) of `preference_probability`; for more the Plackett–Luce choice E[softmax(T mean + e)],
    integrated over archetypes and the joint spread e of user and residuals with scrambled Sobol draws of a fixed seed,
    so that equal requests get equal answers. Cost: O(K · draws · n q).
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
    draws = sobol_draws(1 << (width - 1).bit_length(), DRAWS)  # few widths, so that the cache stays small
    user_draws, residual_draws = draws[:, :q], draws[:, q:width][:, inverse]
    total = np.zeros(n)
    for c, weight in enumerate(beliefs.weights):
        mean = items.base + features @ beliefs.means[c]
        spread = (
            user_draws @ np.linalg.cholesky(beliefs.covariances[c]).T @ features.T
            + residual_draws * residual[c]
        )
        scaled = reward.temperature * mean + spread
        chances = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        total += weight * (chances / chances.sum(axis=1, keepdims=True)).mean(axis=0)
    probabilities: Vector = total / total.sum()
    return probabilities


def _smoothed(means: Vector, variances: Vector) -> Vector:
    """Mean / √(1 + πv/8): the logit of a Gaussian smoothed by the logistic function."""
    logits: Vector = means / np.sqrt(1 + (np.pi / 8) * variances)
    return logits


def _mixed(temperature: float, weights: Vector, logits: Vector) -> Vector:
    """Σ_c w_c σ(T logit_c), `[n]` from `[K, n]`."""
    probability: Vector = weights @ expit(temperature * logits)
    return probability
