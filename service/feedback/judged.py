"""What an event says, once all that it refers to is known: texts, winner first, and how much they count. Pure."""

from dataclasses import dataclass

import orjson

from penchant.models.judgements.edits import edit_weight
from penchant.service.feedback.events import ParsedEvent
from penchant.service.feedback.schemas import (
    ChoiceEvent,
    EditEvent,
    Event,
    PreferenceEvent,
    RankingEvent,
    RatingEvent,
    RetractEvent,
    VoteEvent,
)
from penchant.service.log.reading import judged_texts


@dataclass(frozen=True)
class Shown:
    """What a ranking had shown, as far as an event refers to it.

    Attributes:
        prompt: What the texts answer.
        texts: The one that the event is about, then the others that were seen; distinct.
    """

    prompt: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """What an event says, all references resolved.

    Attributes:
        type: Kind of event.
        texts: (prompt, text) judged, winner first; none of a retraction.
        value: ±1 of a vote, [-1, 1] of a rating, None of everything else.
        weight: In (0, 1]; 0 of an edit that changed nothing.
        groups: Sizes of the tie groups of a choice or ranking, best first.
        target: Event id that a retraction takes back.
        source: Where it comes from.
        payload: The event for the log, JSON.
    """

    type: str
    texts: tuple[tuple[str, str], ...]
    value: float | None
    weight: float
    groups: tuple[int, ...]
    target: str | None
    source: str | None
    payload: str


def judged(parsed: ParsedEvent, shown: Shown | None) -> Judged:
    """What an event says; `shown` is what its `rank_id` stands for, where it sends no texts."""
    event = parsed.event
    logged = dict(parsed.said)
    if shown is not None:
        first, *others = shown.texts
        named = {"chosen": first, "others": others} if isinstance(event, ChoiceEvent) else {"text": first}
        logged |= {"prompt": shown.prompt, **named}
    texts = judged_texts(logged)
    return Judged(
        type=logged["type"],
        texts=texts,
        value=_value(event),
        weight=(event.weight or 1.0) * _strength(event),
        groups=_groups(event, len(texts)),
        target=event.target_event_id if isinstance(event, RetractEvent) else None,
        source=event.source,
        payload=orjson.dumps(logged).decode(),
    )


def _value(event: Event) -> float | None:
    if isinstance(event, RatingEvent):
        low, high = event.scale
        return 2 * ((event.value - low) / (high - low)) - 1  # twice the widest scale would be infinite
    return float(event.value) if isinstance(event, VoteEvent) else None


def _strength(event: Event) -> float:
    if isinstance(event, PreferenceEvent):
        return event.strength or 1.0
    return edit_weight(event.original, event.edited) if isinstance(event, EditEvent) else 1.0


def _groups(event: Event, texts: int) -> tuple[int, ...]:
    if isinstance(event, RankingEvent):
        return tuple(len(tied) for tied in event.order)
    if isinstance(event, ChoiceEvent):
        return (1, texts - 1) if texts > 1 else (1,)
    return ()
