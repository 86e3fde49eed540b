"""Events without their texts, where a tenant keeps none; and two logs made one. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import orjson

TEXT_FIELDS: Final = frozenset(
    {
        "prompt",
        "text",
        "chosen",
        "rejected",
        "candidates",
        "others",
        "order",
        "original",
        "edited",
        "metadata",
    }
)
"""Of an event: what users and apps wrote. The caller's metadata may quote it."""


def without_texts(payload: str) -> str:
    """A logged event, JSON, without texts; a hash stands for its prompt, so that equal prompts stay equal."""
    sent = orjson.loads(payload)
    kept = {name: value for name, value in sent.items() if name not in TEXT_FIELDS}
    return orjson.dumps(kept | {"context": context_of(sent)}).decode()


def has_no_texts(sent: Mapping[str, Any]) -> bool:
    """Whether a logged event is one of those."""
    return "context" in sent


def context_of(sent: Mapping[str, Any]) -> str:
    """What stands for the prompt of a logged event, whether or not the prompt was kept."""
    known = sent.get("context")
    if isinstance(known, str):
        return known
    prompt: str = sent.get("prompt", "")
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def merged_places(
    into: Sequence[tuple[int, float]], source: Sequence[tuple[int, float]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Where the events of two logs stand in the one that they become: by the time at which they were received.

    Each log keeps its own order, whatever its clock said: what was taken back comes before what takes it back.

    Args:
        into: (seq, received_at) of the log that stays, in order.
        source: Of the other. At equal times it comes after.

    Returns:
        Old seq → new seq, from 1, of both.
    """
    timed = [
        (latest, which, seq)
        for which, log in enumerate((into, source))
        for (seq, _), latest in zip(log, accumulate((at for _, at in log), max), strict=True)
    ]
    places: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for place, (_, which, seq) in enumerate(sorted(timed), start=1):
        places[which][seq] = place
    return places
