"""Pydantic models of feedback events: the kinds of judgement with the fields that all events share, and retractions.

In every optional field, `null` means that the field is not given. Unknown fields are refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model
from pydantic.config import JsonDict

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
    str,
    Field(max_length=64),
    AfterValidator(_check_timestamp),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "pattern": "^(?!0000)", "maxLength": 64}
    ),  # years begin with 0001
]

_NULL: Final[JsonDict] = {"type": "null"}


def _complete_schema(schema: JsonDict, model: type[BaseModel]) -> None:
    """Add to the JSON schema of an event what `events.parse_event` checks beside the types of the fields.

    Limits are the names of settings. The OpenAPI document states their values.
    """
    if not issubclass(model, JudgementKind):
        return
    fields: Any = schema["properties"]
    chars = "max_edit_chars" if model.measures_change else "max_text_chars"
    for name in model.text_fields & fields.keys():
        _state_limits(fields[name], chars)
    _state_limits(fields["prompt"], "max_text_chars")
    if model.sent_as:
        schema["if"] = {"required": [model.sent_as], "properties": {model.sent_as: {"not": _NULL}}}
        schema["then"] = {"properties": {model.shown_as: _NULL}}
        schema["else"] = {
            "required": ["rank_id", "index"],
            "properties": {"rank_id": {"not": _NULL}, "index": {"not": _NULL}, "prompt": _NULL},
        }


def _state_limits(schema: Any, max_chars: str) -> None:  # noqa: ANN401 - a JSON schema
    """State how long the texts in a schema may be, and how many an event may have."""
    if schema.get("type") == "string":
        schema["maxLength"] = max_chars
    elif schema.get("type") == "array":
        schema["maxItems"] = "max_event_texts"
        _state_limits(schema["items"], max_chars)
    for alternative in schema.get("anyOf", ()):
        _state_limits(alternative, max_chars)


class Event(ExactModel):
    """The fields that every kind of feedback event has."""

    model_config = ConfigDict(json_schema_extra=_complete_schema)

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
    metadata: dict[str, Any] | None = Field(
        default=None,
        description="any JSON within `max_metadata_bytes` and `max_metadata_depth` of GET /v1/models",
    )


class RetractEvent(Event):
    """A retraction of an earlier event, which then counts as if it had never been sent.

    A retraction can be retracted, too. An event with several retractions counts again only after all of them are
    retracted. The id of a retracted event can be used again.
    """

    type: Literal["retract"]
    weight: float | None = Field(
        default=None, ge=1, le=1, description="an event can only be retracted as a whole"
    )
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

    events: list[Any] = Field(min_length=1, json_schema_extra={"maxItems": "max_events"})
