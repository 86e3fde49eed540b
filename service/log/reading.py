"""What a logged event says, and which events count."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

import orjson

from penchant.models.judgements.judgement import Kind

KINDS: Final[Mapping[str, Kind]] = {
    "preference": "pair",
    "choice": "choice",
    "ranking": "ranking",
    "vote": "vote",
    "rating": "rating",
    "edit": "edit",
}
Event = TypeVar("Event", bound="Logged")


class Logged(Protocol):
    """An event of the log, of which it is asked whether it counts."""

    @property
    def event_id(self) -> str:
        """Its name."""

    @property
    def target(self) -> str | None:
        """Event id that a retraction takes back."""


def judged_texts(logged: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(prompt, text) that a logged event judged, winner first.

    Raises:
        ValueError: The log holds an event that this version cannot read.
    """
    match logged:
        case {"type": "preference", "chosen": chosen, "rejected": rejected}:
            texts = [chosen, rejected]
        case {"type": "choice", "candidates": candidates, "index": index}:
            texts = [candidates[index], *candidates[:index], *candidates[index + 1 :]]
        case {"type": "choice", "chosen": chosen, "others": others}:
            texts = [chosen, *others]
        case {"type": "ranking", "order": order}:
            texts = [text for tied in order for text in tied]
        case {"type": "edit", "edited": edited, "original": original}:
            texts = [edited, original]
        case {"type": "vote" | "rating", "text": text}:
            texts = [text]
        case {"type": "retract"}:
            texts = []
        case _:
            raise ValueError(f"event of type {logged.get('type')!r}")
    prompt = logged.get("prompt", "")
    return tuple((prompt, text) for text in texts)


def judged_texts_of(payload: str) -> tuple[tuple[str, str], ...]:
    """(prompt, text) that a logged event judged; nothing where its texts were not kept.

    Raises:
        ValueError: The event is of no kind that this version knows.
    """
    sent = orjson.loads(payload)
    try:
        return judged_texts(sent)
    except ValueError:
        if sent.get("type") in KINDS:
            return ()
        raise


def in_force(log: Iterable[Event]) -> list[Event]:
    """The judgements that count: all but those that a retraction takes back which is not taken back itself.

    A retraction can only name an earlier event, so that the last word is known first.
    """
    found: list[Event] = []
    taken_back: set[str] = set()
    for event in reversed(list(log)):
        if event.event_id in taken_back:
            continue
        if event.target is None:
            found.append(event)
        else:
            taken_back.add(event.target)
    return found[::-1]
