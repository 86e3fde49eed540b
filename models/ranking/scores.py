"""Many users × many items in one matrix product: utilities, and relevance.

With φ an item's features and φ₀ the reference's, the variance of a comparison is

    (φ − φ₀)ᵀC(φ − φ₀) = φᵀCφ − 2 φᵀCφ₀ + φ₀ᵀCφ₀

so that utilities and their comparison with the reference share Φ[C_1 … C_u], all that costs something. What does not
depend on the items is worked out once for a posterior and kept with it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.taste.items import Items
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

_KEPT_AS: Final = "outlook"
_SMOOTHING: Final = np.pi / 8
_BASE, _BASE_VARIANCE, _PHI = range(3)
"""Columns of `Items.rows`; behind φ the variances of v."""


class Scores(NamedTuple):
    """n items as u users see them.

    Attributes:
        mean: `[u, n]` utility: `UserPosterior.utility`.
        std: `[u, n]` its standard deviation.
        relevance: `[u, n]` P(the user prefers the item to the population's reference answer): `selection.relevance`.
    """

    mean: Vector
    std: Vector
    relevance: Vector


class _Outlook(NamedTuple):
    """What scores need of w archetypes: those of one user, or of several one after the other.

    Attributes:
        covariances: `[w, q, q]`.
        lines: `[1 + 2q, 4w]` by which `Items.rows` are multiplied to give, for each archetype, four numbers that are
            linear in them: utility; T times how far it lies above the reference's; the residuals' variance; the same of
            the comparison, with −2φᵀCφ₀ + φ₀ᵀCφ₀.
    """

    covariances: Vector
    lines: Vector

    @classmethod
    def of(cls, posterior: UserPosterior, reward: RewardModel) -> "_Outlook":
        """Kept with the posterior for the model that was asked for last; 8q numbers for each archetype."""
        kept: tuple[RewardModel, _Outlook] | None = posterior.__dict__.get(_KEPT_AS)
        if kept is not None and kept[0] is reward:
            return kept[1]
        beliefs, reference = posterior.beliefs, reward.reference
        origin, squares = reference.features[0], beliefs.second_moments[:, 1:]
        turned, (w, q) = beliefs.covariances @ origin, beliefs.means.shape
        lines = np.zeros((1 + 2 * q, 4, w))
        utility, above, residual, compared = (lines[:, i] for i in range(4))
        utility[_BASE], utility[_PHI : _PHI + q] = 1.0, beliefs.means.T
        residual[_BASE_VARIANCE], residual[_PHI + q :] = 1.0, squares.T
        above[:], compared[:] = reward.temperature * utility, residual
        # φ begins with a 1, which bears the constants.
        above[_PHI] -= reward.temperature * (beliefs.means @ origin + reference.base)
        compared[_PHI : _PHI + q] -= 2 * turned.T
        compared[_PHI] += (
            turned @ origin + squares @ reference.direction_variance[0] + reference.base_variance
        )
        made = cls(beliefs.covariances, lines.reshape(1 + 2 * q, -1))
        posterior.__dict__[_KEPT_AS] = (reward, made)
        return made

    @classmethod
    def joined(cls, outlooks: Sequence["_Outlook"]) -> "_Outlook":
        """Of several users."""
        rows = len(outlooks[0].lines)
        lines = np.stack([one.lines.reshape(rows, 4, -1) for one in outlooks], axis=2)
        return cls(np.concatenate([one.covariances for one in outlooks]), lines.reshape(rows, -1))


def scores(reward: RewardModel, posteriors: Sequence[UserPosterior], items: Items) -> Scores:
    """Scores of n items for u ≥ 1 users of one population.

    Cost: O(n u K q²), in one product `[n, q] @ [q, u K q]`; O(u K q²) more for users whose scores are asked for first.
    For one user and a few items it is a matter of the number of calls to numpy: `benchmarks.serving`, part growth.
    """
    if len(set(items.keys)) < len(items):
        return _of_each_once(reward, posteriors, items)
    outlooks = [_Outlook.of(posterior, reward) for posterior in posteriors]
    outlook = outlooks[0] if len(outlooks) == 1 else _Outlook.joined(outlooks)
    n, features, w = len(items), items.features, len(outlook.covariances)
    # Covariances are symmetric: their rows one after the other are the columns that are needed.
    turned = features @ outlook.covariances.reshape(-1, features.shape[1]).T
    utility, above, residual, compared = (items.rows @ outlook.lines).reshape(n, 4, w).transpose(1, 0, 2)
    spread = np.vecdot(turned.reshape(n, w, -1), features[:, None])
    variance = spread + residual

    spread += compared
    np.maximum(spread, 0.0, out=spread)
    spread *= _SMOOTHING
    spread += 1
    logits = above / np.sqrt(spread)
    if reward.reference.keys[0] in items.keys:
        logits[[key == reward.reference.keys[0] for key in items.keys]] = 0.0
    relevance = expit(logits)

    if w == len(outlooks):
        return Scores(utility.T, np.sqrt(variance).T, relevance.T)
    weights = np.array([posterior.archetype_weights for posterior in posteriors])
    mean = _mixed(weights, utility)
    apart = (utility.reshape(n, *weights.shape) - mean[:, :, None]).reshape(n, w)
    return Scores(
        mean.T,
        np.sqrt(_mixed(weights, variance + apart * apart)).T,
        _mixed(weights, relevance).T,
    )


def _of_each_once(reward: RewardModel, posteriors: Sequence[UserPosterior], items: Items) -> Scores:
    """Where a text comes twice: on some processors the rows of a product are rounded one way here, another there."""
    first: dict[bytes, int] = {}
    for place, key in enumerate(items.keys):
        first.setdefault(key, place)
    found = scores(reward, posteriors, items[list(first.values())])
    number = {key: i for i, key in enumerate(first)}
    places = [number[key] for key in items.keys]
    return Scores(*(values[:, places] for values in found))


def _mixed(weights: Vector, values: Vector) -> Vector:
    """Σ_c w_uc values_(n, uc), `[n, u]`."""
    mixed: Vector = (values.reshape(len(values), *weights.shape) * weights).sum(axis=2)
    return mixed
