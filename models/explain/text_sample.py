"""`TextSample`: texts, and what a position in the space of taste makes of them, in named attributes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_PHRASES
from penchant.models.explain.departure import Estimate
from penchant.models.explain.reasons import agreement, slope_functionals
from penchant.models.explain.tastes import Tastes
from penchant.models.explain.text_map import TextMap
from penchant.models.taste.items import Items
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Meaning:
    """An attribute that tells of a taste. Slope and effect as in `reasons`; both say the same, to `reasons.TOLD_AT`.

    Attributes:
        name: One of `ATTRIBUTE_NAMES`.
        label: In plain language, by the sign: "longer answers".
        slope: Change of utility along real texts for one standard deviation more of the attribute.
        slope_std: Its standard deviation, for want of knowing the weights.
        effect: The same with all else equal.
        effect_std: Its standard deviation.
    """

    name: str
    label: str
    slope: float
    slope_std: float
    effect: float
    effect_std: float


class TextSample:
    """n texts and what positions z in the space of taste make of them; with `shared`, beside the base utility.

    Args:
        reward: The model; its text prior must be linear in the features.
        vectors: `[n, dim]` features.
        keys: n keys that look up the item memory; None: nothing is looked up.
        counts: `[n]` how much each text counts.

    Raises:
        ExplanationError: The text prior has no linear form.
    """

    def __init__(
        self,
        reward: RewardModel,
        vectors: NDArray[np.float16],
        keys: Sequence[bytes] | None,
        counts: NDArray[np.int64] | Vector,
    ) -> None:
        self._map = TextMap.of(reward, vectors.shape[1])
        self._x = reward.text_prior.standardiser(vectors)
        self._varied = np.isfinite(reward.text_prior.standardiser.scale[self._map.named])
        self._weights = counts / counts.sum()
        self.items: Items = reward.describe(vectors, keys)
        d = self._map.weights.shape[0]
        self._effects = self._map.coordinates(np.eye(d)[self._map.named])
        self._slopes = self._map.coordinates(slope_functionals(self._x, self._map.named))

    @property
    def covariance(self) -> Vector:
        """Of v over the texts, `[q - 1, q - 1]`."""
        apart = self.items.directions - self._weights @ self.items.directions
        return np.asarray((self._weights * apart.T) @ apart)

    def average(self, values: Vector) -> float:
        """Over the texts, of `[n]`."""
        return float(self._weights @ values)

    def utility(self, position: Vector, *, shared: bool = False) -> Vector:
        """z·v of every text, with the base utility where it is what is shared, `[n]`."""
        return np.asarray(self.items.directions @ position + (self.items.base if shared else 0.0))

    def variance(self, position: Vector, *, shared: bool = False) -> float:
        """Of that utility over the texts."""
        utility = self.utility(position, shared=shared)
        return self.average((utility - self.average(utility)) ** 2)

    def named_share(self, position: Vector, *, shared: bool = False) -> float:
        """Share of named attributes in that variance; 0 where nothing varies."""
        utility = self.utility(position, shared=shared)
        apart = utility - self.average(utility)
        variance = self.average(apart**2)
        if variance == 0:
            return 0.0
        named = (
            self._x[:, self._map.named] @ self._map.weights[self._map.named] @ _on(position, shared=shared)
        )
        return float(np.clip(self.average(named * apart) / variance, 0.0, 1.0))

    def meanings(self, position: Vector, *, shared: bool = False) -> tuple[Meaning, ...]:
        """The attributes that tell of a position, by effect × slope."""
        on = _on(position, shared=shared)
        effects, slopes = (_estimate(found, on) for found in (self._effects, self._slopes))
        told = agreement(effects, slopes) & self._varied
        order = np.argsort(-effects.mean * slopes.mean, kind="stable")
        return tuple(
            Meaning(
                name=ATTRIBUTE_NAMES[a],
                label=ATTRIBUTE_PHRASES[ATTRIBUTE_NAMES[a]][int(slopes.mean[a] < 0)],
                slope=float(slopes.mean[a]),
                slope_std=float(slopes.std[a]),
                effect=float(effects.mean[a]),
                effect_std=float(effects.std[a]),
            )
            for a in order.tolist()
            if told[a]
        )

    def oriented(self, tastes: Tastes) -> Tastes:
        """The same axes, each pointing to where its most telling attribute says "more"."""

        def sign(position: Vector) -> float:
            named = self.meanings(position)
            largest = position[np.abs(position).argmax()]
            return -1.0 if (named[0].slope if named else largest) < 0 else 1.0

        return replace(tastes, positions=tastes.positions * np.array([[sign(p)] for p in tastes.positions]))


def _on(position: Vector, *, shared: bool) -> Vector:
    """Coefficients of the item coordinates [b; v]."""
    return np.concatenate([[float(shared)], position])


def _estimate(coordinates: tuple[Vector, Vector], on: Vector) -> Estimate:
    """Functionals of a text's features, weighed by coefficients that are known."""
    means, variances = coordinates
    mean, std = means @ on, np.sqrt(variances @ on**2)
    certain = std == 0
    chance = ndtr(np.where(certain, 0.0, mean) / np.where(certain, 1.0, std))
    return Estimate(mean, std, np.where(certain, 0.5 * (1 + np.sign(mean)), chance))
