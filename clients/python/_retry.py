"""When to try again, and after how long: pure functions of the answer and the count of tries."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from penchant._constants import (
    FIRST_RETRY_DELAY_S,
    JITTER,
    LONGEST_RETRY_AFTER_S,
    LONGEST_RETRY_DELAY_S,
    MAX_RETRIES,
    RETRIED_STATUSES,
)

__all__ = ["RetryPolicy", "retry_after_s"]


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is repeated.

    Attributes:
        max_retries: Tries after the first.
        uniform: A number in [0, 1), for the jitter.
    """

    max_retries: int = MAX_RETRIES
    uniform: Callable[[], float] = random.random

    def after_failure(self, tries: int) -> float | None:
        """Seconds to wait after the ``tries``-th try got no answer, or None to give up."""
        return self._backoff(tries) if tries <= self.max_retries else None

    def after_status(self, tries: int, status: int, headers: Mapping[str, str]) -> float | None:
        """Seconds to wait after the ``tries``-th try was answered so, or None to give up."""
        if status not in RETRIED_STATUSES or tries > self.max_retries:
            return None
        asked = retry_after_s(headers)
        if asked is None:
            return self._backoff(tries)
        return asked if asked <= LONGEST_RETRY_AFTER_S else None

    def _backoff(self, tries: int) -> float:
        # The exponent is capped first: 2.0 ** 2000 is an OverflowError.
        delay = min(FIRST_RETRY_DELAY_S * 2.0 ** min(tries - 1, 32), LONGEST_RETRY_DELAY_S)
        return delay * (1.0 - JITTER * self.uniform())


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait that a ``Retry-After`` header asks for (RFC 9110: seconds or a date), or None."""
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
