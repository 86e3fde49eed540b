"""Reading the log: which events are in force, and the texts in an event's payload. This module does no I/O."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

import orjson

from penchant.models.judgements import kinds

TEXT_FIELDS: Final = frozenset({"prompt", "metadata"}).union(*(kind.text_fields for kind in kinds.ALL))
"""Payload fields with text by users or apps. The caller's metadata is among them because it may quote such text."""

Event = TypeVar("Event", bound="Logged")


class Logged(Protocol):
    """An event of the log, as far as `in_force` needs it."""

    @property
    def event_id(self) -> str:
        """The event's id."""

    @property
    def target(self) -> str | None:
        """Id of the event that it retracts, if it is a retraction."""

    @property
    def is_replaced(self) -> bool:
        """Whether a later event has its id, or that of an event which it retracted."""


def in_force(log: Iterable[Event]) -> list[Event]:
    """Return the judgements of a log that count: all that no retraction in force retracts.

    A retraction names the newest earlier event with its target's id, so the log is read backwards. Older events with
    this id are not in force either, because an id can only be used again if its event is not in force.
    """
    events: list[Event] = []
    retracted: set[str] = set()
    for event in reversed(list(log)):
        if event.is_replaced or event.event_id in retracted:
            continue
        if event.target is None:
            events.append(event)
        else:
            retracted.add(event.target)
    return events[::-1]


def get_judged_texts(payload: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the (prompt, text) pairs that a payload judged, winner first. Empty if its texts were not kept.

    Raises:
        ValueError: If this version does not know the payload's type.
    """
    kind = kinds.BY_TYPE.get(payload["type"])
    if kind is None:
        if payload["type"] == "retract":
            return ()
        raise ValueError(f"event type {payload['type']!r} is unknown to this version")
    try:
        texts = kind.texts(payload)
    except KeyError:
        return ()
    prompt = payload.get("prompt", "")
    return tuple((prompt, text) for text in texts)


def remove_texts(payload: str) -> str:
    """Return a payload (JSON) without its texts. A hash stands for its prompt, so that equal prompts stay equal."""
    fields = orjson.loads(payload)
    kept = {name: value for name, value in fields.items() if name not in TEXT_FIELDS}
    return orjson.dumps(kept | {"context": hash_context(fields)}).decode()


def hash_context(payload: Mapping[str, Any]) -> str:
    """Return the hash that stands for a payload's prompt, whether or not the prompt was kept."""
    stored = payload.get("context")
    if isinstance(stored, str):
        return stored
    prompt: str = payload.get("prompt", "")
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
