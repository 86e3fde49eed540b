"""From judgements, as they are logged, to observations of the user model."""

from penchant.models.judgements import kinds
from penchant.models.taste.items import Items
from penchant.models.taste.linear_predictor import LinearPredictor
from penchant.models.taste.observations import LinearJudgement, Observation, Pair, Ranking, Rating, Vote
from penchant.models.taste.reward import RewardModel


def build_observation(
    reward: RewardModel,
    items: Items,
    *,
    kind: str,
    value: float | None = None,
    weight: float = 1.0,
    source: str | None = None,
    groups: tuple[int, ...] = (),
) -> Observation | None:
    """Return a judgement as an observation of the user model.

    Args:
        reward: Model with the source's rating scale and rate of wrong labels.
        items: The judged texts, winner first: (chosen, rejected), (edited, original), (chosen, the other candidates …),
            (best, …, worst), or the one item that is rated.
        kind: Name of the kind of judgement, as in `Judgement.kind`.
        value: ±1 for a vote, [-1, 1] for a rating.
        weight: Weight in [0, 1]. For an edit, how much it changed.
        source: Source of the judgement.
        groups: Sizes of a ranking's groups of tied texts, best first; () means no ties.

    Returns:
        None if the judgement carries no information: the weight is 0, all texts are tied, or a text is compared with
        itself.

    Raises:
        ValueError: If the kind is unknown, has a wrong number of items, or is a vote or rating without value.
    """
    form = _find_form(kind, len(items), value)
    if not weight:
        return None
    flip = reward.flip(source)
    if form == "vote":
        return Vote(items, _find_sign(value), weight, flip)
    if form == "rating":
        return Rating(items, value or 0.0, reward.rating_scale(source), weight, flip)
    groups = groups or kinds.BY_NAME[kind].default_groups(len(items))
    if len(groups) == 1 or len(set(items.keys)) == 1:
        return None
    if groups == (1, 1):
        return Pair(items[0], items[1], weight, flip)
    return Ranking(items, groups, weight, flip)


def build_judgement(
    reward: RewardModel,
    items: Items,
    start: int,
    end: int,
    *,
    kind: str,
    value: float | None = None,
    weight: float = 1.0,
    source: str | None = None,
    groups: tuple[int, ...] = (),
) -> LinearJudgement | Ranking | None:
    """Return a judgement of some of many texts: that of `build_observation` for `items[start:end]`, as it is learned.

    No `Items` are made for a pair, vote or rating, which takes a third of the time.
    """
    form = _find_form(kind, end - start, value)
    if not weight:
        return None
    flip = reward.flip(source)
    if form != "comparison":
        sign = float(_find_sign(value)) if form == "vote" else 1.0
        predictor = LinearPredictor.from_rows(items.rows[start], sign=sign)
        if form == "vote":
            return LinearJudgement(predictor, weight, flip)
        return LinearJudgement(predictor, weight, flip, value or 0.0, reward.rating_scale(source))
    groups = groups or kinds.BY_NAME[kind].default_groups(end - start)
    keys = items.keys[start:end]
    if len(groups) == 1 or len(set(keys)) == 1:
        return None
    if groups == (1, 1):
        predictor = LinearPredictor.from_rows(items.rows[start], items.rows[start + 1])
        return LinearJudgement(predictor, weight, flip)
    return Ranking(items[start:end], groups, weight, flip)


def _find_form(kind: str, n: int, value: float | None) -> str:
    """Return the form of a kind of judgement of n texts: "comparison", "vote" or "rating".

    Raises:
        ValueError: If there is no such judgement.
    """
    judgement = kinds.BY_NAME.get(kind)
    if judgement is None or not judgement.can_judge(n) or (value is None and judgement.form != "comparison"):
        raise ValueError(f"{kind!r} of {n} items with value {value}")
    return judgement.form


def _find_sign(value: float | None) -> int:
    return 1 if value and value > 0 else -1
