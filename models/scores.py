"""Many users × many items in one matrix product: utilities, and relevance.

With φ an item's features and φ₀ the reference's, the variance of a comparison is

    (φ − φ₀)ᵀC(φ − φ₀) = φᵀCφ − 2 φᵀCφ₀ + φ₀ᵀCφ₀

so that utilities and their comparison with the reference share Φ[C_1 … C_u], all that costs something. What does not
depend on the items is worked out once for a posterior and kept with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.items import Items
from penchant.models.posterior import UserPosterior
from penchant.models.reward import RewardModel

Vector = NDArray[np.float64]

_KEPT_AS: Final = "outlook"
_SMOOTHING: Final = np.pi / 8


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


@dataclass(frozen=True)
class _Outlook:
    """What scores need of w archetypes: those of one user, or of several one after the other.

    Attributes:
        covariances: `[w, q, q]`.
        lines: `[q, 2w]` means, then −2 Cφ₀.
        squares: `[q − 1, w]` E[z²]: what items' residuals are multiplied by.
        reference: `[w]` mean utility of the reference.
        constant: `[w]` φ₀ᵀCφ₀ and the reference's residual variance.
    """

    covariances: Vector
    lines: Vector
    squares: Vector
    reference: Vector
    constant: Vector

    @classmethod
    def of(cls, posterior: UserPosterior, reference: Items) -> "_Outlook":
        """Kept with the posterior for the reference that was asked for last; 3 q numbers beside its own q²."""
        kept = posterior.__dict__.get(_KEPT_AS)
        if kept is not None and kept[0] is reference:
            found: _Outlook = kept[1]
            return found
        beliefs, origin = posterior.beliefs, reference.features[0]
        turned = beliefs.covariances @ origin
        squares = beliefs.second_moments[:, 1:]
        made = cls(
            beliefs.covariances,
            np.concatenate([beliefs.means.T, -2 * turned.T], axis=1),
            np.ascontiguousarray(squares.T),
            beliefs.means @ origin + reference.base,
            turned @ origin + squares @ reference.direction_variance[0] + reference.base_variance,
        )
        posterior.__dict__[_KEPT_AS] = (reference, made)
        return made

    @classmethod
    def joined(cls, outlooks: Sequence["_Outlook"]) -> "_Outlook":
        """Of several users."""
        q = len(outlooks[0].lines)
        lines = np.stack([one.lines.reshape(q, 2, -1) for one in outlooks], axis=2)
        return cls(
            np.concatenate([one.covariances for one in outlooks]),
            lines.reshape(q, -1),
            np.concatenate([one.squares for one in outlooks], axis=1),
            np.concatenate([one.reference for one in outlooks]),
            np.concatenate([one.constant for one in outlooks]),
        )


def scores(reward: RewardModel, posteriors: Sequence[UserPosterior], items: Items) -> Scores:
    """Scores of n items for u ≥ 1 users of one population.

    Cost: O(n u K q²), in one product `[n, q] @ [q, u K q]`; O(u K q²) more for users whose scores are asked for first.
    """
    reference = reward.reference
    outlooks = [_Outlook.of(posterior, reference) for posterior in posteriors]
    outlook = outlooks[0] if len(outlooks) == 1 else _Outlook.joined(outlooks)
    n, features, w = len(items), items.features, len(outlook.constant)
    # Covariances are symmetric: their rows one after the other are the columns that are needed.
    turned = (features @ outlook.covariances.reshape(-1, features.shape[1]).T).reshape(n, w, -1)
    lines = features @ outlook.lines
    utility = lines[:, :w] + items.base[:, None]
    variance = np.einsum("nwq,nq->nw", turned, features)
    variance += items.direction_variance @ outlook.squares
    variance += items.base_variance[:, None]

    apart = np.maximum(variance + lines[:, w:] + outlook.constant, 0.0)
    apart *= _SMOOTHING
    apart += 1
    logits = (utility - outlook.reference) / np.sqrt(apart)
    if reference.keys[0] in items.keys:
        logits[[key == reference.keys[0] for key in items.keys]] = 0.0
    logits *= reward.temperature
    relevance = expit(logits)

    if w == len(outlooks):
        return Scores(utility.T, np.sqrt(variance).T, relevance.T)
    weights = np.array([posterior.archetype_weights for posterior in posteriors])
    mean = _mixed(weights, utility)
    spread = (utility.reshape(n, *weights.shape) - mean[:, :, None]).reshape(n, w)
    return Scores(
        mean.T,
        np.sqrt(_mixed(weights, variance + spread * spread)).T,
        _mixed(weights, relevance).T,
    )


def _mixed(weights: Vector, values: Vector) -> Vector:
    """Σ_c w_uc values_(n, uc), `[n, u]`."""
    mixed: Vector = (values.reshape(len(values), *weights.shape) * weights).sum(axis=2)
    return mixed
