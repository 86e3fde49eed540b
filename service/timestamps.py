"""Timestamps of RFC 3339: Unix seconds as text, and text as a moment."""

import re
from datetime import UTC, datetime
from typing import Final

_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_FIRST: Final = datetime.min.replace(tzinfo=UTC).timestamp()


def format_rfc3339(seconds: float, *, whole_seconds: bool = False) -> str:
    """Return Unix seconds as a UTC timestamp, to the microsecond or without the fraction of a second.

    A moment before the year 1, which an offset can lead to, is written as the start of that year.
    """
    timespec = "seconds" if whole_seconds else "auto"
    return (
        datetime.fromtimestamp(max(seconds, _FIRST), UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
    )


def parse_rfc3339(text: str) -> datetime:
    """Return the moment of a timestamp that has an offset. A leap second is read as the second before it.

    Raises:
        ValueError: If the text is not a timestamp of RFC 3339.
    """
    match = _RFC3339.fullmatch(text.upper())
    if match is None:
        raise ValueError(f"{text!r} is not a timestamp of RFC 3339")
    minute, second, fraction, offset = match.groups(default="")
    return datetime.fromisoformat(minute + second.replace("60", "59") + fraction + offset)
