"""Feedback bodies → valid events. Pure: no store, no encoder, no clock."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.checks import check_event
from penchant.service.feedback.schemas import (
    ChoiceEvent,
    EditEvent,
    Event,
    FeedbackBatch,
    PreferenceEvent,
    RankingEvent,
    RatingEvent,
    RetractEvent,
    VoteEvent,
)
from penchant.service.settings import Settings
from penchant.service.validation import validate

EVENT_MODELS: Final[Mapping[str, type[Event]]] = {
    "preference": PreferenceEvent,
    "choice": ChoiceEvent,
    "ranking": RankingEvent,
    "vote": VoteEvent,
    "rating": RatingEvent,
    "edit": EditEvent,
    "retract": RetractEvent,
}
_NOT_SAID: Final = {"event_id", "user"}


@dataclass(frozen=True)
class ParsedEvent:
    """One valid event of a request.

    Attributes:
        index: Place in the request.
        pointer: Where it lies in the body.
        event: The event.
        event_id: The caller's, or a new one.
        is_callers_id: Whether the caller chose it, so that it can come again.
        user: Whom the request names; None where only the ranking can tell.
        said: The event as JSON, without its name and user.
        content_hash: Equal for equal content, 16 bytes.
    """

    index: int
    pointer: str
    event: Event
    event_id: str
    is_callers_id: bool
    user: str | None
    said: Mapping[str, Any]
    content_hash: bytes


def split_body(body: Mapping[str, Any], settings: Settings) -> tuple[list[Any], bool]:
    """The raw events of a feedback body, and whether it is one bare event.

    Raises:
        InvalidRequestError: The envelope is malformed.
    """
    if "events" not in body:
        return [body], True
    events = validate(FeedbackBatch, body).events
    if len(events) > settings.max_events:
        fault = f"{len(events)} events; a request may have {settings.max_events}."
        raise InvalidRequestError(("/events", fault))
    return events, False


def parse_event(
    raw: object, index: int, *, bare: bool, header_user: str | None, settings: Settings
) -> ParsedEvent:
    """One event of a request.

    Raises:
        ApiError: `user_conflict`, or `validation_failed` with the field's pointer.
    """
    at = "" if bare else f"/events/{index}"
    if not isinstance(raw, dict):
        raise InvalidRequestError((at, "An event is a JSON object."))
    event = validate(_model(raw.get("type"), at), raw, at=at)
    check_event(event, at, settings)
    if event.user is not None and header_user is not None and event.user != header_user:
        raise ApiError(
            Code.USER_CONFLICT,
            "Different users are named by: body, header.",
            errors=[{"pointer": f"{at}/user", "detail": "differs from X-User-Id"}],
        )
    user = event.user if event.user is not None else header_user
    if user is None and event.rank_id is None:
        raise InvalidRequestError(
            (f"{at}/user", "Whose judgement is it? Send `user`, `X-User-Id` or a `rank_id`.")
        )
    said = event.model_dump(mode="json", exclude_none=True, exclude=_NOT_SAID)
    content = orjson.dumps(said | {"user": user}, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    event_id = event.event_id or f"evt_{uuid.uuid4().hex}"
    return ParsedEvent(index, at, event, event_id, event.event_id is not None, user, said, digest)


def _model(kind: object, at: str) -> type[Event]:
    if isinstance(kind, str) and kind in EVENT_MODELS:
        return EVENT_MODELS[kind]
    raise InvalidRequestError((f"{at}/type", f"`type` must be one of {', '.join(EVENT_MODELS)}."))
