"""`TextSample`: texts, and their utility at a position in the space of taste, in named attributes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from penchant.models.encoding.attributes import ATTRIBUTE_PHRASES
from penchant.models.explain.deviation import Estimate
from penchant.models.explain.qualities import RELEVANCE, Qualities
from penchant.models.explain.reasons import have_same_sign
from penchant.models.explain.tastes import Tastes
from penchant.models.explain.text_map import TextMap
from penchant.models.taste.items import Items
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

LABELS: Final = {
    **ATTRIBUTE_PHRASES,
    RELEVANCE: ("closer answers to the question", "looser answers to the question"),
}
"""Plain language for more and for less of every attribute, and of relevance."""


@dataclass(frozen=True)
class Meaning:
    """An attribute that describes a taste: slope and effect, see `reasons`, have the same sign.

    Attributes:
        name: One of `ATTRIBUTE_NAMES`, or `relevance`, whose standard deviation is that over the sample (see
            `qualities`).
        label: Plain language, by the sign of the slope: "longer answers".
        slope: Change of utility along real texts for one standard deviation more of the attribute.
        slope_std: Standard deviation of the slope, due to the uncertainty of the weights.
        effect: Change of utility for one standard deviation more of the attribute, all else equal.
        effect_std: Standard deviation of the effect.
    """

    name: str
    label: str
    slope: float
    slope_std: float
    effect: float
    effect_std: float


class TextSample:
    """n texts and their utility at positions z in the space of taste, base utility included if `shared`.

    Args:
        reward: The model. Its text prior must be linear in the features.
        vectors: `[n, width]` features, or `[n, dim]` without match.
        keys: n keys, looked up in the item memory. If None, the item memory is not used.
        counts: `[n]` weight of each text.

    Raises:
        ExplanationError: If the text prior is not linear.
    """

    def __init__(
        self,
        reward: RewardModel,
        vectors: NDArray[np.float16],
        keys: Sequence[bytes] | None,
        counts: NDArray[np.int64] | Vector,
    ) -> None:
        self._map = TextMap.from_reward(reward)
        self._x = reward.text_prior.standardiser(vectors)
        self._weights = counts / counts.sum()
        self.items: Items = reward.describe(vectors, keys)
        described = self._map.keep(self._x, self._map.described)
        self._described = self._map.read(described, reward.compute_gates(vectors))
        qualities = Qualities.along(reward, self._map, self._x)
        self._names = qualities.names
        self._effects = self._map.coordinates(qualities.effects)
        self._slopes = self._map.coordinates(qualities.slopes)

    @property
    def covariance(self) -> Vector:
        """Covariance of v over the texts, `[q - 1, q - 1]`."""
        deviations = self.items.directions - self._weights @ self.items.directions
        return np.asarray((self._weights * deviations.T) @ deviations)

    def average(self, values: Vector) -> float:
        """Return the weighted mean of values `[n]` over the texts."""
        return float(self._weights @ values)

    def utility(self, position: Vector, *, shared: bool = False) -> Vector:
        """Return z·v of every text, plus the base utility if `shared`, `[n]`."""
        return np.asarray(self.items.directions @ position + (self.items.base if shared else 0.0))

    def variance(self, position: Vector, *, shared: bool = False) -> float:
        """Return the variance of `utility` over the texts."""
        utility = self.utility(position, shared=shared)
        return self.average((utility - self.average(utility)) ** 2)

    def named_share(self, position: Vector, *, shared: bool = False) -> float:
        """Return the share of named attributes and relevance in `variance`; 0 if the utility does not vary."""
        utility = self.utility(position, shared=shared)
        deviations = utility - self.average(utility)
        variance = self.average(deviations**2)
        if variance == 0:
            return 0.0
        named = self._described @ _coefficients(position, shared=shared)
        return float(np.clip(self.average(named * deviations) / variance, 0.0, 1.0))

    def meanings(self, position: Vector, *, shared: bool = False) -> tuple[Meaning, ...]:
        """Return the attributes, relevance among them, that describe a position, by descending effect × slope."""
        coefficients = _coefficients(position, shared=shared)
        effects, slopes = (
            _estimate(functionals, coefficients) for functionals in (self._effects, self._slopes)
        )
        is_meaningful = have_same_sign(effects, slopes)
        order = np.argsort(-effects.mean * slopes.mean, kind="stable")
        return tuple(
            Meaning(
                name=self._names[a],
                label=LABELS[self._names[a]][int(slopes.mean[a] < 0)],
                slope=float(slopes.mean[a]),
                slope_std=float(slopes.std[a]),
                effect=float(effects.mean[a]),
                effect_std=float(effects.std[a]),
            )
            for a in order.tolist()
            if is_meaningful[a]
        )

    def orient(self, tastes: Tastes) -> Tastes:
        """Return the axes with signs such that each one's first attribute has a positive slope."""

        def sign(position: Vector) -> float:
            named = self.meanings(position)
            largest = position[np.abs(position).argmax()]
            return -1.0 if (named[0].slope if named else largest) < 0 else 1.0

        return replace(tastes, positions=tastes.positions * np.array([[sign(p)] for p in tastes.positions]))


def _coefficients(position: Vector, *, shared: bool) -> Vector:
    """Coefficients of the item coordinates [b; v]."""
    return np.concatenate([[float(shared)], position])


def _estimate(coordinates: tuple[Vector, Vector], coefficients: Vector) -> Estimate:
    """Linear combination of item coordinates with known coefficients."""
    means, variances = coordinates
    mean, std = means @ coefficients, np.sqrt(variances @ coefficients**2)
    certain = std == 0
    probability = ndtr(np.where(certain, 0.0, mean) / np.where(certain, 1.0, std))
    return Estimate(mean, std, np.where(certain, 0.5 * (1 + np.sign(mean)), probability))
