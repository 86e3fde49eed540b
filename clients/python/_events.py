"""Builds feedback events, one function for each type. This module does no I/O.

The client method of an event documents its fields.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = [
    "build_choice",
    "build_edit",
    "build_preference",
    "build_ranking",
    "build_rating",
    "build_retraction",
    "build_vote",
]

Field = str | float | Mapping[str, Any] | None


def build_preference(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "preference", "timestamp": _format_timestamp(timestamp), **fields}


def build_choice(
    *,
    candidates: Sequence[str] | None,
    seen: Sequence[int] | None,
    timestamp: datetime | None,
    **fields: Field,
) -> dict[str, Any]:
    return {
        "type": "choice",
        "timestamp": _format_timestamp(timestamp),
        **fields,
        "candidates": None if candidates is None else list(candidates),
        "seen": None if seen is None else list(seen),
    }


def build_ranking(
    *, order: Sequence[str | Sequence[str]], timestamp: datetime | None, **fields: Field
) -> dict[str, Any]:
    groups = [[entry] if isinstance(entry, str) else list(entry) for entry in order]
    return {"type": "ranking", "order": groups, "timestamp": _format_timestamp(timestamp), **fields}


def build_edit(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "edit", "timestamp": _format_timestamp(timestamp), **fields}


def build_retraction(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "retract", "timestamp": _format_timestamp(timestamp), **fields}


def build_vote(*, timestamp: datetime | None, **fields: Field) -> dict[str, Any]:
    return {"type": "vote", "timestamp": _format_timestamp(timestamp), **fields}


def build_rating(
    *, scale: tuple[float, float], timestamp: datetime | None, **fields: Field
) -> dict[str, Any]:
    return {"type": "rating", "scale": list(scale), "timestamp": _format_timestamp(timestamp), **fields}


def _format_timestamp(timestamp: datetime | None) -> str | None:
    if timestamp is None:
        return None
    if timestamp.tzinfo is None:
        raise ValueError("`timestamp` has no time zone. Pass an aware datetime, such as datetime.now(UTC).")
    return timestamp.isoformat()
