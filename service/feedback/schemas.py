"""What feedback events look like, and the models that validate them.

`null` stands for "not given" in every optional field. Unknown fields are refused.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from penchant.service.timestamps import parse_rfc3339
from penchant.service.validation import Exact, Text, UserId

_NO_NUL: Final = r"^[^\x00]*$"  # PostgreSQL stores none


def _check_timestamp(text: str) -> str:
    try:
        parse_rfc3339(text)
    except ValueError:
        raise ValueError("A timestamp is RFC 3339 with an offset, such as 2026-01-31T12:00:00Z.") from None
    return text


def _check_vote(value: int) -> int:
    if value not in (1, -1):
        raise ValueError("A vote is 1 or -1.")
    return value


Timestamp = Annotated[
    str, AfterValidator(_check_timestamp), WithJsonSchema({"type": "string", "format": "date-time"})
]
VoteValue = Annotated[int, AfterValidator(_check_vote), WithJsonSchema({"type": "integer", "enum": [1, -1]})]


class Event(Exact):
    """What every kind of feedback event has."""

    event_id: str | None = Field(
        default=None, min_length=1, max_length=128, pattern=_NO_NUL, description="makes the event idempotent"
    )
    user: UserId | None = None
    rank_id: str | None = Field(default=None, min_length=1, max_length=64, pattern=_NO_NUL)
    timestamp: Timestamp | None = Field(default=None, description="RFC 3339, with offset")
    source: str | None = Field(default=None, min_length=1, max_length=64, pattern=_NO_NUL)
    weight: float | None = Field(default=None, gt=0, le=1)
    metadata: dict[str, Any] | None = None


class PreferenceEvent(Event):
    """The user prefers one text to another."""

    type: Literal["preference"]
    prompt: str | None = None
    chosen: Text
    rejected: Text
    strength: float | None = Field(default=None, gt=0, le=1, description="multiplies `weight`")


class ChoiceEvent(Event):
    """The user picked one of those shown: given in full, or the candidates of a ranking."""

    type: Literal["choice"]
    prompt: str | None = None
    candidates: list[Text] | None = Field(default=None, min_length=2, description="all that were shown")
    index: int = Field(ge=0, description="the one picked, among `candidates` or those of the ranking")
    seen: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        description="with `rank_id`: the candidates that were seen, all unless given; the one picked is implied",
    )


class RankingEvent(Event):
    """The user put texts in order."""

    type: Literal["ranking"]
    prompt: str | None = None
    order: list[Annotated[list[Text], Field(min_length=1)]] = Field(
        min_length=1, description="best first; texts in one list are tied"
    )


class EditEvent(Event):
    """The user rewrote a text: the edited one is better, by how much it changed. No change says nothing."""

    type: Literal["edit"]
    prompt: str | None = None
    original: Text
    edited: Text


class RetractEvent(Event):
    """The user takes an event back: from now on it is as if it had never been sent.

    A retraction can be taken back too. Taking back what is taken back already changes nothing; then the event counts
    again only when all of its retractions are taken back.
    """

    type: Literal["retract"]
    target_event_id: str = Field(min_length=1, max_length=128, pattern=_NO_NUL)


class TextEvent(Event):
    """A judgement of one text, given in full or as a candidate of a ranking."""

    prompt: str | None = None
    text: Text | None = None
    index: int | None = Field(default=None, ge=0)


class VoteEvent(TextEvent):
    """The user finds a text good enough (1) or not (-1)."""

    type: Literal["vote"]
    value: VoteValue


class RatingEvent(TextEvent):
    """The user rates a text within a scale."""

    type: Literal["rating"]
    value: float
    scale: list[float] = Field(min_length=2, max_length=2, description="[lowest, highest]")


AnyEvent = Annotated[
    PreferenceEvent | ChoiceEvent | RankingEvent | VoteEvent | RatingEvent | EditEvent | RetractEvent,
    Field(discriminator="type"),
]


class FeedbackBatch(Exact):
    """Events in the order in which they happened."""

    events: list[Any] = Field(min_length=1)
