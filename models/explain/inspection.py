"""The content of a fitted model in words: consensus, the tastes in which people differ, and archetypes.

Shares refer to the variance, on the latent scale, of a comparison between two of the texts by a user without
judgements. It includes the noise of the judgement: π²/6 per text under the logistic link, divided by the squared
temperature (Nakagawa & Schielzeth 2013). consensus + tastes + smaller + unexplained + chance = 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.explain.tastes import Tastes
from penchant.models.explain.text_sample import Meaning, TextSample
from penchant.models.taste.reward import RewardModel

Vector = NDArray[np.float64]

MAX_TEXTS: Final = 5_000
"""Maximum number of texts of an inspection. Of more texts, an evenly spaced selection is used."""

MIN_SHARE: Final = 1e-3
"""Minimum share of the variance for a taste to be listed."""

NOISE: Final = math.pi**2 / 6
"""Variance of a judgement of one text in units of utility: half that of a logistic comparison."""


@dataclass(frozen=True)
class Taste:
    """A direction in which utility varies over texts.

    Attributes:
        share: Share of the variance of a comparison, 0 to 1.
        deviation: Standard deviation of utility over the texts, for a user at `position`.
        position: `[q - 1]` z of a user one standard deviation from the mean user. For the consensus, the mean user.
        named_share: Share of named attributes and relevance in the variance of utility. The rest is due to the content
            of the texts.
        attributes: Attributes that describe the direction, most important first.
        highest: Rows of the texts with the highest utility, highest first.
        lowest: Rows of the texts with the lowest utility, lowest first.
    """

    share: float
    deviation: float
    position: tuple[float, ...]
    named_share: float
    attributes: tuple[Meaning, ...]
    highest: tuple[int, ...] = ()
    lowest: tuple[int, ...] = ()


@dataclass(frozen=True)
class Archetype:
    """A kind of user.

    Attributes:
        weight: Share of users.
        threshold: How much more easily they are satisfied than the mean user, in units of utility.
        tastes: Their mean on each of the listed tastes, in standard deviations of the population.
        spread: Their standard deviation on each of the listed tastes.
        attributes: Attributes that describe how they differ from the mean user.
    """

    weight: float
    threshold: float
    tastes: tuple[float, ...]
    spread: tuple[float, ...]
    attributes: tuple[Meaning, ...]


@dataclass(frozen=True)
class Inspection:
    """The content of a model.

    Attributes:
        texts: Number of texts inspected.
        consensus: Taste of the mean user.
        tastes: Directions in which people differ, largest first on the texts from which they were computed, up to the
            last with a share of at least `MIN_SHARE`.
        smaller: Number of tastes that are not listed.
        smaller_share: Joint share of the tastes that are not listed.
        unexplained: Share of the residuals of single texts.
        chance: Share of the noise of judgements.
        threshold: Standard deviation over users of their threshold, in units of utility.
        archetypes: Kinds of users; a single one if the population is not a mixture.
    """

    texts: int
    consensus: Taste
    tastes: tuple[Taste, ...]
    smaller: int
    smaller_share: float
    unexplained: float
    chance: float
    threshold: float
    archetypes: tuple[Archetype, ...]


def inspect(
    reward: RewardModel,
    vectors: NDArray[np.float16],
    item_keys: Sequence[bytes] | None = None,
    *,
    counts: NDArray[np.int64] | None = None,
    axes: Tastes | None = None,
    examples: int = 0,
) -> Inspection:
    """Return the content of a reward model, evaluated on texts such as those it was fitted on.

    Args:
        reward: The model. Its text prior must be linear in the features.
        vectors: `[n, width]` features of texts, or `[n, dim]` without match, n > 0. Of more than `MAX_TEXTS`, an evenly
            spaced selection is used.
        item_keys: n keys from `item_key`, looked up in the item memory. If None, the item memory is not used.
        counts: `[n]` number of judgements of each text, its weight. None for equal weights.
        axes: Tastes computed from other texts, evaluated on these. None to compute them from these texts.
        examples: Number of example texts at each end of the consensus and of each taste.

    Raises:
        ExplanationError: If the text prior is not linear.

    Cost: O(n d m r) for a text prior with uncertainty of rank r, and O(q³).
    """
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MAX_TEXTS)).astype(np.int64))
    keys = [item_keys[i] for i in rows] if item_keys is not None else None
    sample = TextSample(reward, vectors[rows], keys, np.ones(len(rows)) if counts is None else counts[rows])
    prior = reward.population.prior
    tastes = axes or sample.orient(Tastes.principal_axes(prior, sample.covariance))
    personal = [sample.variance(position) for position in tastes.positions]
    shared = sample.variance(tastes.centre, shared=True)
    unexplained = sample.average(
        sample.items.base_variance + sample.items.direction_variance @ prior.expected_squares[1:]
    )
    noise = NOISE / reward.temperature**2
    total = shared + sum(personal) + unexplained + noise
    listed = max((j + 1 for j, variance in enumerate(personal) if variance >= MIN_SHARE * total), default=0)

    def taste(position: Vector, variance: float, *, shared: bool = False) -> Taste:
        order = rows[np.argsort(-sample.utility(position, shared=shared), kind="stable")].tolist()
        return Taste(
            share=variance / total,
            deviation=variance**0.5,
            position=tuple(position.tolist()),
            named_share=sample.named_share(position, shared=shared),
            attributes=sample.meanings(position, shared=shared),
            highest=tuple(order[:examples]),
            lowest=tuple(order[::-1][:examples]),
        )

    means, covariances = tastes.users(prior.means, prior.covariances)
    thresholds = prior.means[:, 0] - prior.mean[0]
    return Inspection(
        texts=len(rows),
        consensus=taste(tastes.centre, shared, shared=True),
        tastes=tuple(taste(tastes.positions[j], personal[j]) for j in range(listed)),
        smaller=len(personal) - listed,
        smaller_share=sum(personal[listed:]) / total,
        unexplained=unexplained / total,
        chance=noise / total,
        threshold=float(prior.covariance[0, 0] ** 0.5),
        archetypes=tuple(
            Archetype(
                weight=float(prior.weights[c]),
                threshold=float(thresholds[c]),
                tastes=tuple(means[c, 1 : 1 + listed].tolist()),
                spread=tuple(np.sqrt(np.diagonal(covariances[c])[1 : 1 + listed]).tolist()),
                attributes=sample.meanings(prior.means[c, 1:] - tastes.centre),
            )
            for c in range(len(prior.weights))
        ),
    )
