"""Many users × many items in one matrix product: utilities, and relevance.

With φ an item's features and φ₀ the reference's, the variance of a comparison is

    (φ − φ₀)ᵀC(φ − φ₀) = φᵀCφ − 2 φᵀCφ₀ + φ₀ᵀCφ₀

so that utilities and their comparison with the reference share Φ[C_1 … C_u], all that costs something.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.items import Items
from penchant.models.posterior import UserPosterior
from penchant.models.reward import RewardModel

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """n items as u users see them.

    Attributes:
        mean: `[u, n]` utility: `UserPosterior.utility`.
        std: `[u, n]` its standard deviation.
        relevance: `[u, n]` P(the user prefers the item to the population's reference answer): `selection.relevance`.
    """

    mean: Vector
    std: Vector
    relevance: Vector


def scores(reward: RewardModel, posteriors: Sequence[UserPosterior], items: Items) -> Scores:
    """Scores of n items for u ≥ 1 users of one population.

    Cost: O(n u K q²), in one product `[n, q] @ [q, u K q]`.
    """
    beliefs = [posterior.beliefs for posterior in posteriors]
    if len(beliefs) == 1:
        weights, means, covariances = beliefs[0].weights[None], beliefs[0].means, beliefs[0].covariances
    else:
        weights = np.array([one.weights for one in beliefs])
        means = np.concatenate([one.means for one in beliefs])
        covariances = np.concatenate([one.covariances for one in beliefs])
    n, features, reference = len(items), items.features, reward.reference
    (width, q), origin = means.shape, reference.features[0]
    # Covariances are symmetric: their rows one after the other are the columns that are needed.
    turned = (features @ covariances.reshape(width * q, q).T).reshape(n, width, q)
    # E_c[y²] per coordinate of z: what items' residuals are multiplied by.
    second = (means * means + covariances.diagonal(0, 1, 2))[:, 1:]
    residual = items.base_variance[:, None] + items.direction_variance @ second.T
    utility = items.base[:, None] + features @ means.T
    variance = (turned @ features[:, :, None])[:, :, 0] + residual

    at_origin = means @ origin + reference.base
    constant = covariances @ origin @ origin + second @ reference.direction_variance[0]
    apart = np.maximum(variance - 2 * (turned @ origin) + (constant + reference.base_variance), 0.0)
    logits = (utility - at_origin) / np.sqrt(1 + (np.pi / 8) * apart)
    if reference.keys[0] in items.keys:
        logits[[key == reference.keys[0] for key in items.keys]] = 0.0

    mean = _mixed(weights, utility)
    spread = (utility.reshape(n, *weights.shape) - mean[:, :, None]).reshape(n, width)
    return Scores(
        mean.T,
        np.sqrt(_mixed(weights, variance + spread * spread)).T,
        _mixed(weights, expit(reward.temperature * logits)).T,
    )


def _mixed(weights: Vector, values: Vector) -> Vector:
    """Σ_c w_uc values_(n, uc), `[n, u]`."""
    if weights.shape[1] == 1:
        return values
    mixed: Vector = (values.reshape(len(values), *weights.shape) * weights).sum(axis=2)
    return mixed
