"""Feedback bodies → events that can be logged and learned. Pure: no store, no encoder, no clock."""

import hashlib
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from penchant.models.items import Items
from penchant.models.likelihood import Observation, Pair, Rating, Vote
from penchant.models.reward import RewardModel
from penchant.service.body import validate
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.schemas import Event, FeedbackBatch, PreferenceEvent, RatingEvent, TextEvent, VoteEvent
from penchant.service.settings import Settings

MODELS: Final[Mapping[str, type[Event]]] = {
    "preference": PreferenceEvent,
    "vote": VoteEvent,
    "rating": RatingEvent,
}
PLANNED: Final = frozenset({"choice", "ranking", "edit", "retract"})


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
        content_hash: Equal for equal content, 16 bytes.
    """

    index: int
    pointer: str
    event: Event
    event_id: str
    is_callers_id: bool
    user: str | None
    content_hash: bytes


@dataclass(frozen=True)
class Judged:
    """What an event says, all references resolved.

    Attributes:
        type: Kind of event.
        texts: (prompt, text) judged, winner first.
        value: ±1 of a vote, [-1, 1] of a rating, None of a preference.
        weight: In (0, 1].
        source: Where it comes from.
        payload: The event for the log, JSON.
    """

    type: str
    texts: tuple[tuple[str, str], ...]
    value: float | None
    weight: float
    source: str | None
    payload: str


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
        ApiError: `unsupported_event_type`, `user_conflict`, or `validation_failed` with the field's pointer.
    """
    at = "" if bare else f"/events/{index}"
    if not isinstance(raw, dict):
        raise InvalidRequestError((at, "An event is a JSON object."))
    event = validate(_model(raw.get("type"), at), raw, at=at)
    _check(event, at, settings)
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
    content = event.model_dump(mode="json", exclude_none=True, exclude={"event_id"}) | {"user": user}
    digest = hashlib.blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
    event_id = event.event_id or f"evt_{uuid.uuid4().hex}"
    return ParsedEvent(index, at, event, event_id, event.event_id is not None, user, digest)


def judged(parsed: ParsedEvent, shown: tuple[str, str] | None) -> Judged:
    """What an event says; `shown` is the prompt and text that its `rank_id` and `index` refer to."""
    event = parsed.event
    logged: dict[str, Any] = event.model_dump(mode="json", exclude_none=True, exclude={"event_id", "user"})
    weight, value = event.weight or 1.0, None
    if isinstance(event, PreferenceEvent):
        prompt = event.prompt or ""
        texts: tuple[tuple[str, str], ...] = ((prompt, event.chosen), (prompt, event.rejected))
        weight *= event.strength or 1.0
    else:
        if shown is not None:
            logged |= {"prompt": shown[0], "text": shown[1]}
        texts = judged_texts(logged)
        value = _value(event)
    return Judged(logged["type"], texts, value, weight, event.source, orjson.dumps(logged).decode())


def judged_texts(logged: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(prompt, text) that a logged event judged, winner first."""
    prompt = logged.get("prompt", "")
    if logged["type"] == "preference":
        return (prompt, logged["chosen"]), (prompt, logged["rejected"])
    return ((prompt, logged["text"]),)


def observation(
    reward: RewardModel, items: Items, *, kind: str, value: float | None, weight: float, source: str | None
) -> Observation:
    """A judgement in the words of the user model; `items` are the judged texts, winner first.

    Raises:
        ValueError: The log holds an event that this version cannot read.
    """
    if kind == "preference":
        return Pair(items[0], items[1], weight)
    if kind == "vote" and value is not None:
        return Vote(items[0], 1 if value > 0 else -1, weight)
    if kind == "rating" and value is not None:
        return Rating(items[0], value, reward.rating_scale(source), weight)
    raise ValueError(f"event of type {kind!r} with value {value}")


def _model(kind: object, at: str) -> type[Event]:
    if isinstance(kind, str) and kind in MODELS:
        return MODELS[kind]
    if isinstance(kind, str) and kind in PLANNED:
        fault = f"Events of type {kind} are not supported yet; supported are {', '.join(MODELS)}."
        raise InvalidRequestError((f"{at}/type", fault), code=Code.UNSUPPORTED_EVENT_TYPE)
    raise InvalidRequestError((f"{at}/type", f"`type` must be one of {', '.join(MODELS)}."))


def _check(event: Event, at: str, settings: Settings) -> None:
    """What the schema cannot say."""
    if event.metadata is not None and len(orjson.dumps(event.metadata)) > settings.max_metadata_bytes:
        fault = f"Metadata may have {settings.max_metadata_bytes} bytes as JSON."
        raise InvalidRequestError((f"{at}/metadata", fault))
    for name in ("prompt", "text", "chosen", "rejected"):
        text = getattr(event, name, None)
        if text is not None and len(text) > settings.max_text_chars:
            fault = f"{len(text)} characters; a text may have {settings.max_text_chars}."
            raise InvalidRequestError((f"{at}/{name}", fault))
    if isinstance(event, PreferenceEvent) and event.chosen == event.rejected:
        raise InvalidRequestError((f"{at}/rejected", "It is the same text as `chosen`."))
    if isinstance(event, TextEvent):
        _check_reference(event, at)
    if isinstance(event, RatingEvent):
        low, high = event.scale
        if not low < high or not math.isfinite(high - low):
            raise InvalidRequestError((f"{at}/scale", "A scale is [lowest, highest], lowest first."))
        if not low <= event.value <= high:
            raise InvalidRequestError((f"{at}/value", f"It is outside the scale [{low:g}, {high:g}]."))


def _check_reference(event: TextEvent, at: str) -> None:
    if event.text is not None:
        if event.index is not None:
            raise InvalidRequestError((f"{at}/index", "Send either `text` or `rank_id` and `index`."))
        return
    if event.rank_id is None:
        raise InvalidRequestError((f"{at}/text", "What is judged? Send `text`, or `rank_id` and `index`."))
    if event.index is None:
        raise InvalidRequestError((f"{at}/index", "Which candidate of the ranking? Send `index`, or `text`."))
    if event.prompt is not None:
        raise InvalidRequestError((f"{at}/prompt", "The ranking has its own prompt."))


def _value(event: Event) -> float:
    if isinstance(event, RatingEvent):
        low, high = event.scale
        return 2 * (event.value - low) / (high - low) - 1
    if isinstance(event, VoteEvent):
        return float(event.value)
    raise TypeError(type(event).__name__)
