"""Judgements as the user model sees them: items, winner first, and the user's response to them."""

from dataclasses import dataclass
from typing import NamedTuple

from penchant.models.taste.items import Items
from penchant.models.taste.linear_predictor import LinearPredictor


@dataclass(frozen=True)
class RatingScale:
    """How a source's ratings, normalised to [-1, 1], depend on utility: r = offset + slope·u + N(0, noise²)."""

    offset: float
    slope: float
    noise: float


@dataclass(frozen=True)
class Pair:
    """The user prefers `winner` to `loser`: σ(u_winner − u_loser).

    Attributes:
        winner: The preferred item, one row.
        loser: The other item, one row.
        weight: Power of the likelihood, in (0, 1].
        flip: Probability that the preference is reversed.
    """

    winner: Items
    loser: Items
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Vote:
    """The user finds `item` good enough (+1) or not (−1): σ(±u).

    Attributes:
        item: The item, one row.
        value: 1 or −1.
        weight: Power of the likelihood, in (0, 1].
        flip: Probability that the vote is reversed.
    """

    item: Items
    value: int
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Rating:
    """The user rates `item`.

    Attributes:
        item: The item, one row.
        value: The rating, normalised to [-1, 1].
        scale: Rating scale of the source.
        weight: Power of the likelihood, in (0, 1].
        flip: Probability that the rating is uniform noise.
    """

    item: Items
    value: float
    scale: RatingScale
    weight: float = 1.0
    flip: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """The user orders n items: Plackett–Luce, with ties by Efron's approximation.

    Attributes:
        items: n items, best first.
        groups: Sizes of the groups of tied items, best first; their sum is n. The order within the last group is
            unknown: the choice of one among n is (1, n − 1).
        weight: Power of the likelihood, in (0, 1].
        flip: Probability that the order is random.
    """

    items: Items
    groups: tuple[int, ...]
    weight: float = 1.0
    flip: float = 0.0


class LinearJudgement(NamedTuple):
    """A pair, vote or rating as the likelihood reads it. Those of a log are built like this, without `Items`.

    Attributes:
        predictor: The linear predictor ψ: of the winner minus the loser, or of the text, with the sign of a vote.
        weight: Power of the likelihood, in (0, 1].
        flip: Probability that the label is wrong.
        value: The rating. None for a pair or vote.
        scale: Rating scale of the source. None for a pair or vote.
    """

    predictor: LinearPredictor
    weight: float = 1.0
    flip: float = 0.0
    value: float | None = None
    scale: RatingScale | None = None


Observation = Pair | Vote | Rating | Ranking | LinearJudgement
