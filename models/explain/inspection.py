"""What a fitted model holds, in words: what everybody likes, in which tastes people differ, which archetypes there are.

Shares are of the variance, on the latent scale, of a comparison between two of the texts by somebody of whom nothing is
known, the noise of the judgement being part of it (π²/6 a text under the logistic link, over the squared temperature;
Nakagawa & Schielzeth 2013): consensus + tastes + smaller + unexplained + chance = 1.
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

MOST_TEXTS: Final = 5_000
"""Texts that an inspection looks at; of more, it takes every so manieth."""

WORTH_NAMING: Final = 1e-3
"""Share of the variance from which a taste is told of."""

NOISE: Final = math.pi**2 / 6
"""Variance of a judgement of one text in units of utility: half of the logistic one of a comparison."""


@dataclass(frozen=True)
class Taste:
    """A direction in which utility varies over texts.

    Attributes:
        share: Of the variance of a comparison, 0 to 1.
        deviation: Standard deviation of utility over the texts, for a user who stands at `position`.
        position: `[q - 1]` z of a user one standard deviation along it, from the mean user. Of the consensus, the mean.
        named_share: Of the deviation's variance, what named attributes carry: the rest is what texts say otherwise.
        attributes: That tell of it, the most telling first.
        highest: Rows of texts that stand highest, first the highest.
        lowest: Rows of texts that stand lowest, first the lowest.
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
        tastes: Their mean on each of the tastes told of, in standard deviations of the population.
        spread: Their standard deviation on each.
        attributes: That tell how they differ from the mean user.
    """

    weight: float
    threshold: float
    tastes: tuple[float, ...]
    spread: tuple[float, ...]
    attributes: tuple[Meaning, ...]


@dataclass(frozen=True)
class Inspection:
    """What a model holds.

    Attributes:
        texts: How many texts it was looked at on.
        consensus: What everybody likes: the mean user.
        tastes: In which people differ, largest first on the texts they were found on; up to the last that carries at
            least `WORTH_NAMING`.
        smaller: How many more tastes there are.
        smaller_share: What they carry together.
        unexplained: Share of what single texts have that neither their features nor their judgements tell yet.
        chance: Share of the noise of judgements.
        threshold: Standard deviation over users of how easily they are satisfied, in units of utility.
        archetypes: Kinds of users; one where users are no mixture.
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
    """What a reward model holds, seen on texts such as those it was fitted on.

    Args:
        reward: The model; its text prior must be linear in the features.
        vectors: `[n, dim]` features of texts, n > 0; of more than `MOST_TEXTS` an even selection is taken.
        item_keys: n keys from `item_key`, which look up the item memory. None: nothing is looked up.
        counts: `[n]` judgements of each text, which weigh it. None: all alike.
        axes: Tastes found on other texts, to be seen on these. None: those of these texts.
        examples: Texts to point out at each end of consensus and tastes.

    Raises:
        ExplanationError: The text prior has no linear form.

    Cost: O(n d m r) for a text prior with uncertainty of rank r, and O(q³).
    """
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_TEXTS)).astype(np.int64))
    keys = [item_keys[i] for i in rows] if item_keys is not None else None
    seen = TextSample(reward, vectors[rows], keys, np.ones(len(rows)) if counts is None else counts[rows])
    prior = reward.population.prior
    tastes = axes or seen.oriented(Tastes.of(prior, seen.covariance))
    personal = [seen.variance(position) for position in tastes.positions]
    shared = seen.variance(tastes.centre, shared=True)
    unexplained = seen.average(
        seen.items.base_variance + seen.items.direction_variance @ prior.expected_squares[1:]
    )
    chance = NOISE / reward.temperature**2
    total = shared + sum(personal) + unexplained + chance
    told = max((j + 1 for j, variance in enumerate(personal) if variance >= WORTH_NAMING * total), default=0)

    def taste(position: Vector, variance: float, *, shared: bool = False) -> Taste:
        order = rows[np.argsort(-seen.utility(position, shared=shared), kind="stable")].tolist()
        return Taste(
            share=variance / total,
            deviation=variance**0.5,
            position=tuple(position.tolist()),
            named_share=seen.named_share(position, shared=shared),
            attributes=seen.meanings(position, shared=shared),
            highest=tuple(order[:examples]),
            lowest=tuple(order[::-1][:examples]),
        )

    means, covariances = tastes.users(prior.means, prior.covariances)
    thresholds = prior.means[:, 0] - prior.mean[0]
    return Inspection(
        texts=len(rows),
        consensus=taste(tastes.centre, shared, shared=True),
        tastes=tuple(taste(tastes.positions[j], personal[j]) for j in range(told)),
        smaller=len(personal) - told,
        smaller_share=sum(personal[told:]) / total,
        unexplained=unexplained / total,
        chance=chance / total,
        threshold=float(prior.covariance[0, 0] ** 0.5),
        archetypes=tuple(
            Archetype(
                weight=float(prior.weights[c]),
                threshold=float(thresholds[c]),
                tastes=tuple(means[c, 1 : 1 + told].tolist()),
                spread=tuple(np.sqrt(np.diagonal(covariances[c])[1 : 1 + told]).tolist()),
                attributes=seen.meanings(prior.means[c, 1:] - tastes.centre),
            )
            for c in range(len(prior.weights))
        ),
    )
