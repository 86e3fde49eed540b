"""Timestamps of RFC 3339: Unix seconds as text, and text as a moment."""

import re
from datetime import UTC, datetime
from typing import Final

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
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
    """Return the moment of a timestamp that has an offset.

    Raises:
        ValueError: If the text is not a timestamp of RFC 3339.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"{text!r} is not a timestamp of RFC 3339")
    return datetime.fromisoformat(text.upper())
