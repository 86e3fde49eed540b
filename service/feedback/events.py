"""Parses the body of a feedback request into valid events. This module does no I/O."""

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from penchant.models.judgements.base import JudgementKind
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.schemas import EVENT_MODELS, Event, FeedbackBatch
from penchant.service.parsing import is_deeper
from penchant.service.settings import Settings
from penchant.service.timestamps import parse_rfc3339
from penchant.service.validation import validate

_ENVELOPE: Final = {"event_id", "user"}


@dataclass(frozen=True)
class ReceivedEvent:
    """One valid event of a request.

    Attributes:
        index: Position in the request.
        pointer: JSON pointer to the event in the body.
        event: The validated event.
        type: Kind of event, as on the wire.
        event_id: Id given by the caller, or a new one.
        is_callers_id: Whether the caller chose the id, so that a repeated event can be recognised.
        user: User named by the event or the header. None if the user must be taken from the ranking.
        payload: The event as JSON, without its id and user.
        content_hash: Hash of the event's content and user, 16 bytes.
        timestamp: Time that the event names, in Unix seconds. None if it names none.
    """

    index: int
    pointer: str
    event: Event
    type: str
    event_id: str
    is_callers_id: bool
    user: str | None
    payload: Mapping[str, Any]
    content_hash: bytes
    timestamp: float | None


@dataclass(frozen=True)
class FeedbackRequest:
    """A feedback request whose events have been validated one by one.

    Attributes:
        events: Events in the order of the request. For an invalid one, why it is rejected.
        is_bare: Whether the body is a single event without an envelope.
        request_hash: Hash of the body and of the header's user, 16 bytes. None if the request has no idempotency key.
    """

    events: tuple[ReceivedEvent | ApiError, ...]
    is_bare: bool
    request_hash: bytes | None


def parse_request(
    body: Mapping[str, Any], *, header_user: str | None, is_hashed: bool, settings: Settings
) -> FeedbackRequest:
    """Validate the body of a feedback request.

    Args:
        body: Body of the request.
        header_user: User named in the header, for events that name none.
        is_hashed: Whether the request has an idempotency key.
        settings: Limits.

    Raises:
        InvalidRequestError: If the envelope is malformed or holds too many events.

    Cost: linear in the body.
    """
    raw, is_bare = _split_body(body, settings)
    request_hash = None
    if is_hashed:
        request_hash = _hash(orjson.dumps([body, header_user], option=orjson.OPT_SORT_KEYS))
    events: list[ReceivedEvent | ApiError] = []
    for index, event in enumerate(raw):
        try:
            events.append(
                parse_event(event, index, is_bare=is_bare, header_user=header_user, settings=settings)
            )
        except ApiError as error:
            events.append(error.detach())
    return FeedbackRequest(tuple(events), is_bare, request_hash)


def _split_body(body: Mapping[str, Any], settings: Settings) -> tuple[list[Any], bool]:
    """Return the raw events of a body, and whether the body is a single event without an envelope."""
    if "events" not in body:
        return [body], True
    events = validate(FeedbackBatch, body).events
    if len(events) > settings.max_events:
        fault = f"The request has {len(events)} events; the limit is {settings.max_events}."
        raise InvalidRequestError(("/events", fault))
    return events, False


def parse_event(
    raw: object, index: int, *, is_bare: bool, header_user: str | None, settings: Settings
) -> ReceivedEvent:
    """Validate one event of a request.

    Args:
        raw: The event as JSON.
        index: Position in the request.
        is_bare: Whether the event is the whole body.
        header_user: User named in the header, if any.
        settings: Limits.

    Raises:
        ApiError: If the event is invalid (`validation_failed`, with a pointer to the field), or if body and header name
            different users (`user_conflict`).
    """
    base = "" if is_bare else f"/events/{index}"
    if not isinstance(raw, dict):
        raise InvalidRequestError((base, "An event is a JSON object."))
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in EVENT_MODELS:
        raise InvalidRequestError((f"{base}/type", f"`type` must be one of {', '.join(EVENT_MODELS)}."))
    event = validate(EVENT_MODELS[kind], raw, pointer=base)
    for pointer, fault in _find_faults(event, settings):
        raise InvalidRequestError((base + pointer, fault))
    if event.user is not None and header_user is not None and event.user != header_user:
        raise ApiError(
            Code.USER_CONFLICT,
            "The body and the header name different users.",
            errors=[{"pointer": f"{base}/user", "detail": "differs from X-User-Id"}],
        )
    user = event.user if event.user is not None else header_user
    if user is None and event.rank_id is None:
        raise InvalidRequestError(
            (f"{base}/user", "The event names no user. Send `user`, `X-User-Id` or a `rank_id`.")
        )
    payload = event.model_dump(mode="json", exclude_none=True, exclude=_ENVELOPE)
    content = orjson.dumps(payload | {"user": user}, option=orjson.OPT_SORT_KEYS)
    return ReceivedEvent(
        index=index,
        pointer=base,
        event=event,
        type=kind,
        event_id=event.event_id or f"evt_{uuid.uuid4().hex}",
        is_callers_id=event.event_id is not None,
        user=user,
        payload=payload,
        content_hash=_hash(content),
        timestamp=None if event.timestamp is None else parse_rfc3339(event.timestamp).timestamp(),
    )


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _find_faults(event: Event, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an event that its schema accepts: limits, and fields that do not fit together."""
    if event.metadata is not None:
        if is_deeper(event.metadata, settings.max_metadata_depth):
            yield "/metadata", f"The metadata may be nested {settings.max_metadata_depth} deep."
        size = len(orjson.dumps(event.metadata))
        if size > settings.max_metadata_bytes:
            fault = f"The metadata is {size} bytes of JSON; the limit is {settings.max_metadata_bytes}."
            yield "/metadata", fault
    if isinstance(event, JudgementKind):
        yield from _find_judgement_faults(event, event.rank_id, settings)


def _find_judgement_faults(
    event: JudgementKind, rank_id: str | None, settings: Settings
) -> Iterator[tuple[str, str]]:
    texts = list(event.sent_texts())
    if event.prompt is not None and len(event.prompt) > settings.max_text_chars:
        yield "/prompt", _too_long(event.prompt, settings.max_text_chars)
    # The weight of an edit costs the product of its texts' lengths.
    limit = min(
        settings.max_text_chars, settings.max_edit_chars if event.measures_change else settings.max_text_chars
    )
    for pointer, text in texts:
        if len(text) > limit:
            yield pointer, _too_long(text, limit)
    if event.refers_to_ranking:
        if rank_id is None:
            fault = (
                f"Send `{event.sent_as}`, or `index` and the `rank_id` of the ranking that showed the text."
            )
            yield f"/{event.sent_as}", fault
        if event.prompt is not None:
            yield "/prompt", "A ranking has its own prompt; leave `prompt` out beside a `rank_id`."
    elif len(texts) > settings.max_event_texts:
        field = "/".join(texts[0][0].split("/")[:2])
        yield field, f"The event has {len(texts)} texts; the limit is {settings.max_event_texts}."
    yield from event.faults()


def _too_long(text: str, limit: int) -> str:
    return f"The text has {len(text)} characters; the limit is {limit}."
