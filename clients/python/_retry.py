"""Decides whether a failed call is repeated, and after how long. This module does no I/O."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["MAX_RETRIES", "RetryPolicy", "parse_retry_after"]

MAX_RETRIES: Final = 2

_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 8.0
_MAX_RETRY_AFTER_S: Final = 60.0
"""If the server asks for a longer wait, the error is raised immediately and the caller decides."""
_JITTER: Final = 0.25
"""A delay is shortened by up to this share of itself, so that many clients do not retry at the same moment."""

_RETRIED_STATUSES: Final = frozenset({408, 409, 429, *range(500, 600)})


@dataclass(frozen=True)
class RetryPolicy:
    """Decides how often a call is repeated, and how long to wait before each repetition.

    Delays start at 0.5 s, double with each attempt up to 8 s, and are shortened by up to a quarter at random.

    Attributes:
        max_retries: Attempts after the first.
        sample_uniform: Function that returns a random number in [0, 1) for the jitter.
    """

    max_retries: int = MAX_RETRIES
    sample_uniform: Callable[[], float] = random.random

    def delay_after_failure(self, attempt: int) -> float | None:
        """Return the seconds to wait after attempt number ``attempt`` got no response, or None to give up."""
        return self._compute_backoff(attempt) if attempt <= self.max_retries else None

    def delay_after_status(self, attempt: int, status: int, headers: Mapping[str, str]) -> float | None:
        """Return the seconds to wait after attempt number ``attempt`` got this status, or None to give up."""
        if status not in _RETRIED_STATUSES or attempt > self.max_retries:
            return None
        retry_after_s = parse_retry_after(headers)
        if retry_after_s is None:
            return self._compute_backoff(attempt)
        return retry_after_s if retry_after_s <= _MAX_RETRY_AFTER_S else None

    def _compute_backoff(self, attempt: int) -> float:
        # The exponent is capped first: 2.0 ** 2000 is an OverflowError.
        delay = min(_FIRST_DELAY_S * 2.0 ** min(attempt - 1, 32), _MAX_DELAY_S)
        return delay * (1.0 - _JITTER * self.sample_uniform())


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110: seconds or a date), or None."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
