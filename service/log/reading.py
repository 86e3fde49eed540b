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

    @property
    def is_replaced(self) -> bool:
        """Whether a later event has its id, or that of an event which it retracted."""


class Named(Protocol):
    """An event of the log that retractions may name."""

    @property
    def seq(self) -> int:
        """The event's place in the log."""

    @property
    def event_id(self) -> str:
        """The event's id."""

    @property
    def replaced(self) -> int:
        """1 if a later event has its id, or that of an event which it retracted; otherwise 0."""


class Retraction(Named, Protocol):
    """A retraction in the log."""

    @property
    def target_event_id(self) -> str:
        """Id of the event that it retracts."""


def in_force(log: Iterable[Event]) -> list[Event]:
    """Return the judgements of a log that count: all that no retraction in force retracts.

    A retraction names the newest earlier event with its target's id, so the log is read backwards.
    """
    events: list[Event] = []
    retracted: set[str] = set()
    for event in reversed(list(log)):
        if event.is_replaced:
            continue
        if event.event_id in retracted:
            retracted.remove(event.event_id)  # older events with this id have retractions of their own
        elif event.target is None:
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
        Places of the events that are retracted, other than replaced ones, and the place of the earliest event whose
        standing may have changed, or `through` + 1 if there is none.
    """
    places: dict[tuple[str, bool], list[int]] = {}
    for event in sorted(named, key=lambda event: event.seq):
        places.setdefault((event.event_id, bool(event.replaced)), []).append(event.seq)

    def find_target(retraction: Retraction, replaced: bool) -> int | None:
        with_id = places.get((retraction.target_event_id, replaced), [])
        before = bisect_left(with_id, retraction.seq)
        return with_id[before - 1] if before else None

    withdrawn: set[int] = set()
    possible: dict[int, list[int]] = {}
    for retraction in reversed(retractions):
        target = find_target(retraction, replaced=False)
        # A replaced event is not in force, and neither is a retraction of an event that was replaced later.
        if target is not None and not retraction.replaced and retraction.seq not in withdrawn:
            withdrawn.add(target)
        targets = (target, find_target(retraction, replaced=True))
        possible[retraction.seq] = [seq for seq in targets if seq is not None]
    earliest = through + 1
    affected = [seq for seq in possible if seq > covered]
    seen = set(affected)
    while affected:
        for seq in possible.get(affected.pop(), ()):
            earliest = min(earliest, seq)
            if seq not in seen:
                seen.add(seq)
                affected.append(seq)
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
