"""Utilities and relevance of many items for many users, in one matrix product.

With φ an item's features and φ₀ the reference's, the variance of a comparison is

    (φ − φ₀)ᵀC(φ − φ₀) = φᵀCφ − 2 φᵀCφ₀ + φ₀ᵀCφ₀

so that utilities and their comparison with the reference share the product Φ[C_1 … C_u], which dominates the cost. The
terms that do not depend on the items are computed once for each posterior and cached with it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.taste.items import Items
from penchant.models.taste.logistic import MODERATION
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

_CACHE_NAME: Final = "score_terms"
_BASE, _BASE_VARIANCE, _PHI = range(3)
"""Columns of `Items.rows`: the variances of v follow φ."""


class Scores(NamedTuple):
    """Scores of n items for u users.

    Attributes:
        mean: `[u, n]` mean utility, as `UserPosterior.utility`.
        std: `[u, n]` standard deviation of the utility.
        relevance: `[u, n]` P(the user prefers the item to the population's reference answer), as `selection.relevance`.
    """

    mean: Vector
    std: Vector
    relevance: Vector


class _ScoreTerms(NamedTuple):
    """The terms of scores that do not depend on the items, for w archetypes: those of one or several users.

    Attributes:
        covariances: `[w, q, q]` covariances of the archetypes.
        coefficients: `[1 + 2q, 4w]` coefficients of `Items.rows` for four numbers under each archetype: the utility; T
            times its difference to the reference's utility; the variance of the item's residual; the variance of the
            comparison's residual, plus −2φᵀCφ₀ + φ₀ᵀCφ₀.
    """

    covariances: Vector
    coefficients: Vector

    @classmethod
    def compute(cls, posterior: UserPosterior, reward: RewardModel) -> "_ScoreTerms":
        """Return the terms of one user. They are cached with the posterior, 8q numbers for each archetype."""
        cached: tuple[RewardModel, _ScoreTerms] | None = posterior.__dict__.get(_CACHE_NAME)
        if cached is not None and cached[0] is reward:
            return cached[1]
        beliefs, reference = posterior.beliefs, reward.reference
        origin, second_moments = reference.features[0], beliefs.second_moments[:, 1:]
        product, (w, q) = beliefs.covariances @ origin, beliefs.means.shape
        coefficients = np.zeros((1 + 2 * q, 4, w))
        utility, difference, residual, compared = (coefficients[:, i] for i in range(4))
        utility[_BASE], utility[_PHI : _PHI + q] = 1.0, beliefs.means.T
        residual[_BASE_VARIANCE], residual[_PHI + q :] = 1.0, second_moments.T
        difference[:], compared[:] = reward.temperature * utility, residual
        # The first element of φ is 1: its coefficient holds the constants.
        difference[_PHI] -= reward.temperature * (beliefs.means @ origin + reference.base)
        compared[_PHI : _PHI + q] -= 2 * product.T
        compared[_PHI] += (
            product @ origin + second_moments @ reference.direction_variance[0] + reference.base_variance
        )
        terms = cls(beliefs.covariances, coefficients.reshape(1 + 2 * q, -1))
        posterior.__dict__[_CACHE_NAME] = (reward, terms)
        return terms

    @classmethod
    def concatenate(cls, users_terms: Sequence["_ScoreTerms"]) -> "_ScoreTerms":
        """Return the terms of several users."""
        rows = len(users_terms[0].coefficients)
        coefficients = np.stack([terms.coefficients.reshape(rows, 4, -1) for terms in users_terms], axis=2)
        return cls(
            np.concatenate([terms.covariances for terms in users_terms]), coefficients.reshape(rows, -1)
        )


def scores(reward: RewardModel, posteriors: Sequence[UserPosterior], items: Items) -> Scores:
    """Return the scores of n items for u ≥ 1 users of one population.

    Cost: O(n u K q²), in one product `[n, q] @ [q, u K q]`; O(u K q²) more if the terms of a user are not cached.
    For one user and a few items the number of calls to numpy dominates: see `benchmarks.serving`, part growth.
    """
    if len(set(items.keys)) < len(items):
        return _score_distinct(reward, posteriors, items)
    users_terms = [_ScoreTerms.compute(posterior, reward) for posterior in posteriors]
    terms = users_terms[0] if len(users_terms) == 1 else _ScoreTerms.concatenate(users_terms)
    n, features, w = len(items), items.features, len(terms.covariances)
    # Covariances are symmetric, so that their stacked rows are the required columns.
    products = features @ terms.covariances.reshape(-1, features.shape[1]).T
    utility, difference, residual, compared = (
        (items.rows @ terms.coefficients).reshape(n, 4, w).transpose(1, 0, 2)
    )
    variances = np.vecdot(products.reshape(n, w, -1), features[:, None])
    variance = variances + residual

    variances += compared
    np.maximum(variances, 0.0, out=variances)
    variances *= MODERATION
    variances += 1
    logits = difference / np.sqrt(variances)
    if reward.reference.keys[0] in items.keys:
        logits[[key == reward.reference.keys[0] for key in items.keys]] = 0.0
    relevance = expit(logits)

    if w == len(users_terms):
        return Scores(utility.T, np.sqrt(variance).T, relevance.T)
    weights = np.array([posterior.archetype_weights for posterior in posteriors])
    mean = _average(weights, utility)
    deviations = (utility.reshape(n, *weights.shape) - mean[:, :, None]).reshape(n, w)
    return Scores(
        mean.T,
        np.sqrt(_average(weights, variance + deviations * deviations)).T,
        _average(weights, relevance).T,
    )


def _score_distinct(reward: RewardModel, posteriors: Sequence[UserPosterior], items: Items) -> Scores:
    """Score each distinct text once: some processors round equal rows of a product differently."""
    first: dict[bytes, int] = {}
    for row, key in enumerate(items.keys):
        first.setdefault(key, row)
    distinct = scores(reward, posteriors, items[list(first.values())])
    number = {key: i for i, key in enumerate(first)}
    rows = [number[key] for key in items.keys]
    return Scores(*(values[:, rows] for values in distinct))


def _average(weights: Vector, values: Vector) -> Vector:
    """Σ_c w_uc values_(n, uc), `[n, u]`."""
    average: Vector = (values.reshape(len(values), *weights.shape) * weights).sum(axis=2)
    return average
