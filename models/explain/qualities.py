"""`Qualities`: what a text can be said to have more or less of, as linear functionals of its features.

They are the named attributes, and how closely the text answers its question: `relevance`. Its measure is the shared
worth of the match, r(x) = Σ_j s_j x_j over the functions x_j of the match, where s_j are the weights of the mean user.
It is 0 for the median answer to its own prompt, and without a prompt.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.explain.text_map import TextMap
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

RELEVANCE: Final = "relevance"
"""Name of the quality of answering the question, beside those of `ATTRIBUTE_NAMES`."""

UNCORRELATED_TEXTS: Final = 25.0
"""Number of pseudo-texts with uncorrelated features, added when slopes are computed. Among a few texts any two features
correlate by accident (by 1/√n): at 25 texts, as much as two related features typically do."""

LEAST_DEVIATION: Final = 1e-6
"""Texts whose worth of the match deviates by less than this, in units of utility, do not differ in it."""


@dataclass(frozen=True)
class Qualities:
    """The p qualities in which texts differ.

    Attributes:
        names: p names: the attributes that vary in the fitted texts, and `relevance` if the model reads prompts and the
            given texts differ in the worth of their match.
        effects: `[p, d]` functionals that give the change of a linear function of x for one standard deviation more of
            a quality, all else equal. For an attribute, the deviation is that over the fitted texts. For `relevance`,
            it is that over the given texts, and the functions of the match change together as they do along them.
        slopes: `[p, d]` functionals that give the change along the given texts, in which correlated features change too.
            `UNCORRELATED_TEXTS` pseudo-texts are added, among which nothing else changes.
    """

    names: tuple[str, ...]
    effects: Vector
    slopes: Vector

    @classmethod
    def along(cls, reward: RewardModel, text: TextMap, x: Vector) -> "Qualities":
        """Return the qualities of texts with standardised features x `[n, d]`. Cost: O(n d a) for a attributes."""
        centred = x - x.mean(axis=0) if len(x) else x
        effects, slopes = np.eye(x.shape[1])[text.named], _compute_slopes(centred, text.named)
        varied = np.isfinite(reward.text_prior.standardiser.scale[text.named])
        names = tuple(name for name, varies in zip(ATTRIBUTE_NAMES, varied, strict=True) if varies)
        effects, slopes = effects[varied], slopes[varied]
        worth = centred[:, text.matched] @ text.match_worth(reward.population.prior.mean)
        deviation = worth.std() if len(worth) else 0.0
        if deviation < LEAST_DEVIATION:
            return cls(names, effects, slopes)
        along = centred.T @ (worth / deviation)
        effect = np.zeros(x.shape[1])
        effect[text.matched] = along[text.matched] / len(x)
        slope = (along + UNCORRELATED_TEXTS * effect) / (len(x) + UNCORRELATED_TEXTS)
        return cls((*names, RELEVANCE), np.vstack([effects, effect]), np.vstack([slopes, slope]))


def _compute_slopes(centred: Vector, named: slice) -> Vector:
    """Return Cov(x, x_a)/Var(x_a) `[a, d]` over centred texts, and pseudo-texts of independent unit features."""
    covariances = centred[:, named].T @ centred + UNCORRELATED_TEXTS * np.eye(centred.shape[1])[named]
    variances: Vector = np.diagonal(covariances[:, named])
    return np.asarray(covariances / variances[:, None])
