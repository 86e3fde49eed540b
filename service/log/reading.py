"""Reading the log: which events are in force, and the texts in an event's payload. This module does no I/O."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
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


class Named(Protocol):
    """An event of the log that retractions may name."""

    @property
    def seq(self) -> int:
        """The event's place in the log."""

    @property
    def event_id(self) -> str:
        """The event's id."""


class Retraction(Named, Protocol):
    """A retraction in the log."""

    @property
    def target_event_id(self) -> str:
        """Id of the event that it retracts."""


def in_force(log: Iterable[Event]) -> list[Event]:
    """Return the judgements of a log that count: all that no retraction in force retracts.

    A retraction can only name an earlier event, so the log is read backwards.
    """
    events: list[Event] = []
    retracted: set[str] = set()
    for event in reversed(list(log)):
        if event.event_id in retracted:
            continue
        if event.target is None:
            events.append(event)
        else:
            retracted.add(event.target)
    return events[::-1]


def find_withdrawn(
    retractions: Sequence[Retraction], named: Iterable[Named], covered: int, through: int
) -> tuple[frozenset[int], int]:
    """Return which events of a log do not count, and the earliest event that recent retractions may have affected.

    Only the rows that have to do with retractions are needed, so a long log need not be read.

    Args:
        retractions: All retractions up to `through`, in order.
        named: All events with an id that one of them names, in any order.
        covered: Retractions after this place are the recent ones.
        through: End of the log.

    Returns:
        Places of the events that are retracted, and the place of the earliest event whose standing may have changed, or
        `through` + 1 if there is none.
    """
    places: dict[str, list[int]] = {}
    for event in sorted(named, key=lambda event: event.seq):
        places.setdefault(event.event_id, []).append(event.seq)
    targets: dict[int, int] = {}
    for retraction in retractions:  # an id may have been used again: the newest earlier event is meant
        with_id = places.get(retraction.target_event_id, [])
        before = bisect_left(with_id, retraction.seq)
        if before:
            targets[retraction.seq] = with_id[before - 1]
    withdrawn: set[int] = set()
    earliest = through + 1
    for seq in sorted(targets, reverse=True):
        if seq not in withdrawn:
            withdrawn.add(targets[seq])
        affected: int | None = seq if seq > covered else None
        while affected is not None and (affected := targets.get(affected)) is not None:
            earliest = min(earliest, affected)
    return frozenset(withdrawn), earliest


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
