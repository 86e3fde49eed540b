"""From a judgement to what the user model learns: one function for evaluations and for the service."""

from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import Observation, Pair, Ranking, Rating, Vote
from penchant.models.taste.reward import RewardModel


def observation(
    reward: RewardModel,
    items: Items,
    *,
    kind: str,
    value: float | None = None,
    weight: float = 1.0,
    source: str | None = None,
    groups: tuple[int, ...] = (),
) -> Observation | None:
    """A judgement in its native form.

    Args:
        reward: Knows the source's rating scale and how often its labels are wrong.
        items: The judged texts, winner first: (chosen, rejected), (edited, original), (chosen, the others shown …),
            (best, …, worst), or the one item rated.
        kind: What was said: a `judgements.Kind`, or `preference`, as the HTTP interface calls a pair.
        value: ±1 of a vote, [-1, 1] of a rating.
        weight: In [0, 1]; an edit's is what it changed (`edits.edit_weight`).
        source: Where it comes from.
        groups: Sizes of a ranking's groups of tied texts, best first; () means no ties.

    Returns:
        None where nothing is said: a weight of 0, all tied, or only one text compared with itself.

    Raises:
        ValueError: An unknown kind, a kind with a wrong number of items, or a vote or rating without value.
    """
    n, flip = len(items), reward.flip(source)
    match kind:
        case "vote" if n == 1 and value is not None:
            return Vote(items, 1 if value > 0 else -1, weight, flip) if weight else None
        case "rating" if n == 1 and value is not None:
            return Rating(items, value, reward.rating_scale(source), weight, flip) if weight else None
        case "pair" | "preference" | "edit" if n == 2:
            ranked: tuple[int, ...] = (1, 1)
        case "choice" if n > 1:
            ranked = (1, n - 1)
        case "ranking" if n > 1:
            ranked = groups or (1,) * n
        case _:
            raise ValueError(f"{kind!r} of {n} items with value {value}")
    if not weight or len(ranked) == 1 or len(set(items.keys)) == 1:
        return None
    if ranked == (1, 1):
        return Pair(items[0], items[1], weight, flip)
    return Ranking(items, ranked, weight, flip)
