"""What a user said, in the words of the user model: items with what was said of them, winner first."""

import math
from dataclasses import dataclass

from penchant.models.errors import ModelError
from penchant.models.taste.items import Items


class LikelihoodError(ModelError, ValueError):
    """A judgement whose numbers cannot be learned from."""


@dataclass(frozen=True)
class RatingScale:
    """How a source's ratings, normalised to [-1, 1], arise from utility: r = offset + slope·u + N(0, noise²)."""

    offset: float
    slope: float
    noise: float


@dataclass(frozen=True)
class Pair:
    """The user prefers `winner` to `loser` (one row each): σ(u_winner − u_loser)."""

    winner: Items
    loser: Items
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Vote:
    """The user finds `item` good enough (+1) or not (−1): σ(±u)."""

    item: Items
    value: int
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Rating:
    """The user rates `item`, `value` being normalised to [-1, 1]."""

    item: Items
    value: float
    scale: RatingScale
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """The user orders n items: Plackett–Luce, ties by Efron's approximation.

    Attributes:
        items: n items, best first.
        groups: Sizes of the groups of tied items, best first, sum n. The last group says nothing among itself: the
            choice of one among n is (1, n − 1).
        weight: Power of the likelihood, in (0, 1].
        flip: Probability that the order says nothing.
    """

    items: Items
    groups: tuple[int, ...]
    weight: float = 1.0
    flip: float = 0.0


Observation = Pair | Vote | Rating | Ranking


def checked(observation: Observation) -> Observation:
    """The observation itself; the order of two items is a pair.

    Raises:
        LikelihoodError: A weight outside (0, 1], a flip rate outside [0, 1], a vote other than ±1, a rating that is
            not finite, or groups that do not add up to the items.
    """
    if not 0 < observation.weight <= 1:
        raise LikelihoodError(f"weight must be in (0, 1], is {observation.weight}")
    if not 0 <= observation.flip <= 1:
        raise LikelihoodError(f"flip must be in [0, 1], is {observation.flip}")
    match observation:
        case Vote(value=value) if value not in (-1, 1):
            raise LikelihoodError(f"a vote is 1 or -1, not {value}")
        case Rating(value=value) if not math.isfinite(value):
            raise LikelihoodError(f"a rating must be finite, is {value}")
        case Ranking(items, groups):
            if len(items) < 2 or min(groups, default=0) < 1 or sum(groups) != len(items):
                raise LikelihoodError(f"groups {groups} do not order {len(items)} items")
            if groups == (1, 1):
                return Pair(items[0], items[1], observation.weight, observation.flip)
    return observation
