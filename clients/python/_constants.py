"""Every number of time and number of tries in the SDK, and nothing else."""

from typing import Final

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8642"

TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 2.0

MAX_RETRIES: Final = 2
FIRST_RETRY_DELAY_S: Final = 0.5
LONGEST_RETRY_DELAY_S: Final = 8.0
LONGEST_RETRY_AFTER_S: Final = 60.0
"""A server that asks for a longer wait gets none: the error is raised at once, and the caller decides."""
JITTER: Final = 0.25
"""A delay is shortened by up to this share of itself, so that many clients do not return together."""

RETRIED_STATUSES: Final = frozenset({408, 409, 429, *range(500, 600)})
