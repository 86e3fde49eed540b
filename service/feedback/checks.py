"""What must hold of an event beyond its schema: limits, and fields that must fit each other. Pure."""

import math
from collections.abc import Iterator
from functools import cache

import orjson

from penchant.service.errors import InvalidRequestError
from penchant.service.feedback.schemas import (
    ChoiceEvent,
    Event,
    PreferenceEvent,
    RankingEvent,
    RatingEvent,
    RetractEvent,
    TextEvent,
)
from penchant.service.settings import Settings

_TEXT_FIELDS = ("prompt", "text", "chosen", "rejected", "original", "edited")


def check_event(event: Event, at: str, settings: Settings) -> None:
    """Checks one event that lies at the pointer `at`.

    Raises:
        InvalidRequestError: Names the field, and the limit that it breaks.
    """
    if event.metadata is not None and len(orjson.dumps(event.metadata)) > settings.max_metadata_bytes:
        fault = f"Metadata may have {settings.max_metadata_bytes} bytes as JSON."
        raise InvalidRequestError((f"{at}/metadata", fault))
    for where, text in _texts(event):
        compared = where in ("/original", "/edited")  # their distance costs the product of their lengths
        limit = min(settings.max_text_chars, settings.max_edit_chars) if compared else settings.max_text_chars
        if len(text) > limit:
            raise InvalidRequestError((at + where, f"{len(text)} characters; it may have {limit}."))
    match event:
        case PreferenceEvent():
            if event.chosen == event.rejected:
                raise InvalidRequestError((f"{at}/rejected", "It is the same text as `chosen`."))
        case ChoiceEvent():
            _check_choice(event, at, settings)
        case RankingEvent():
            _check_ranking(event, at, settings)
        case TextEvent():
            _check_text(event, at)
        case RetractEvent():
            if event.weight not in (None, 1.0):
                raise InvalidRequestError((f"{at}/weight", "An event is taken back as a whole."))
        case _:
            pass


def _check_choice(event: ChoiceEvent, at: str, settings: Settings) -> None:
    if event.candidates is None:
        if event.rank_id is None:
            fault = "Picked among what? Send `candidates`, or the `rank_id` that showed them."
            raise InvalidRequestError((f"{at}/candidates", fault))
        if event.prompt is not None:
            raise InvalidRequestError((f"{at}/prompt", "The ranking has its own prompt."))
        seen: set[int] = set()
        for i, index in enumerate(event.seen or ()):
            if index in seen:
                raise InvalidRequestError((f"{at}/seen/{i}", f"Candidate {index} is named twice."))
            seen.add(index)
        return
    if event.seen is not None:
        fault = "`seen` goes with a `rank_id` alone: send only `candidates` that were seen."
        raise InvalidRequestError((f"{at}/seen", fault))
    _check_number(len(event.candidates), f"{at}/candidates", settings)
    _check_distinct(event, at)
    if event.index >= len(event.candidates):
        fault = f"There are {len(event.candidates)} candidates, the first being 0."
        raise InvalidRequestError((f"{at}/index", fault))


def _check_ranking(event: RankingEvent, at: str, settings: Settings) -> None:
    number = sum(map(len, event.order))
    if number < 2:
        raise InvalidRequestError((f"{at}/order", "One text has no order: send at least two."))
    _check_number(number, f"{at}/order", settings)
    _check_distinct(event, at)


def _check_text(event: TextEvent, at: str) -> None:
    if isinstance(event, RatingEvent):
        _check_scale(event, at)
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


def _check_scale(event: RatingEvent, at: str) -> None:
    low, high = event.scale
    if not low < high or not math.isfinite(high - low):
        raise InvalidRequestError((f"{at}/scale", "A scale is [lowest, highest], lowest first."))
    if not low <= event.value <= high:
        raise InvalidRequestError((f"{at}/value", f"It is outside the scale [{low:g}, {high:g}]."))


def _check_number(number: int, where: str, settings: Settings) -> None:
    if number > settings.max_event_texts:
        raise InvalidRequestError((where, f"{number} texts; an event may have {settings.max_event_texts}."))


def _check_distinct(event: Event, at: str) -> None:
    """A text that stands twice in one judgement beats itself: nobody means that."""
    first: dict[str, str] = {}
    for where, text in _texts(event):
        if where == "/prompt":
            continue
        if text in first:
            raise InvalidRequestError((at + where, f"It is the same text as {at}{first[text]}."))
        first[text] = where


def _texts(event: Event) -> Iterator[tuple[str, str]]:
    """(pointer within the event, text) of all texts that it sends."""
    for name in _text_fields(type(event)):
        text = getattr(event, name)
        if text is not None:
            yield f"/{name}", text
    if isinstance(event, ChoiceEvent):
        for i, text in enumerate(event.candidates or ()):
            yield f"/candidates/{i}", text
    if isinstance(event, RankingEvent):
        for i, tied in enumerate(event.order):
            for j, text in enumerate(tied):
                yield f"/order/{i}/{j}", text


@cache
def _text_fields(kind: type[Event]) -> tuple[str, ...]:
    """Which of them this kind of event has: to ask a model for one that it lacks takes a while."""
    return tuple(name for name in _TEXT_FIELDS if name in kind.model_fields)
