"""Pydantic models of feedback events: the kinds of judgement with the fields that all events share, and retractions.

In every optional field, `null` means that the field is not given. Unknown fields are refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, create_model

from penchant.models.judgements import kinds
from penchant.models.judgements.base import JudgementKind
from penchant.service.timestamps import parse_rfc3339
from penchant.service.validation import ExactModel, UserId

_NO_NUL: Final = r"^[^\x00]*$"  # PostgreSQL cannot store NUL characters


def _check_timestamp(text: str) -> str:
    try:
        parse_rfc3339(text)
    except ValueError:
        raise ValueError("A timestamp is RFC 3339 with an offset, such as 2026-01-31T12:00:00Z.") from None
    return text


Timestamp = Annotated[
    str, AfterValidator(_check_timestamp), WithJsonSchema({"type": "string", "format": "date-time"})
]


class Event(ExactModel):
    """The fields that every kind of feedback event has."""

    event_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=_NO_NUL,
        description="makes the event idempotent, until it is retracted",
    )
    user: UserId | None = None
    rank_id: str | None = Field(default=None, min_length=1, max_length=64, pattern=_NO_NUL)
    timestamp: Timestamp | None = Field(default=None, description="when it happened: RFC 3339, with offset")
    source: str | None = Field(default=None, min_length=1, max_length=64, pattern=_NO_NUL)
    weight: float | None = Field(default=None, gt=0, le=1)
    metadata: dict[str, Any] | None = None


class RetractEvent(Event):
    """A retraction of an earlier event, which then counts as if it had never been sent.

    A retraction can be retracted, too. An event with several retractions counts again only after all of them are
    retracted. The id of a retracted event can be used again.
    """

    type: Literal["retract"]
    target_event_id: str = Field(min_length=1, max_length=128, pattern=_NO_NUL)


def _build_event_model(kind: type[JudgementKind]) -> type[Event]:
    """Build the model of events of one kind of judgement."""
    bases: Any = (kind, Event)
    model: type[Event] = create_model(
        f"{kind.__name__}Event", __base__=bases, __doc__=kind.__doc__, __module__=__name__
    )
    return model


EVENT_MODELS: Final[Mapping[str, type[Event]]] = {
    **{name: _build_event_model(kind) for name, kind in kinds.BY_TYPE.items()},
    "retract": RetractEvent,
}
"""Models of events by `type`. Events of judgements are instances of `JudgementKind` as well."""


class FeedbackBatch(ExactModel):
    """Events in the order in which they happened."""

    events: list[Any] = Field(min_length=1)
