"""How often a tenant, and each of its keys, may ask. Counted in this server's memory: with n servers n times as often.

The `limits` library counts by sliding windows: two numbers for each tenant and key, whatever the rate. Headers are
those of draft-ietf-httpapi-ratelimit-headers.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from penchant.service.access.keyring import Caller
from penchant.service.access.tenancy import Tenancy
from penchant.service.errors import ApiError, Code
from penchant.service.settings import Settings

MINUTE: Final = 60


@dataclass(frozen=True)
class Policy:
    """One limit and how much of it is left, as the headers tell it.

    Attributes:
        name: Lower-case name.
        quota: How much there is.
        window_seconds: For how long.
        left: How much of it is left.
        reset_seconds: When there will be more.
    """

    name: str
    quota: int
    window_seconds: int
    left: int
    reset_seconds: int


def rate_headers(policies: Sequence[Policy]) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy`, structured fields (RFC 9651); nothing where there is no limit."""
    if not policies:
        return {}
    return {
        "RateLimit-Policy": ", ".join(f'"{p.name}";q={p.quota};w={p.window_seconds}' for p in policies),
        "RateLimit": ", ".join(f'"{p.name}";r={p.left};t={p.reset_seconds}' for p in policies),
    }


class RequestLimiter:
    """Counts requests; belongs to the event loop.

    Args:
        settings: The limit of every key.
        tenancy: The limit of each tenant.
    """

    def __init__(self, settings: Settings, tenancy: Tenancy) -> None:
        self._per_key = settings.key_requests_per_minute
        self._tenancy = tenancy
        self._storage = MemoryStorage()
        self._windows = SlidingWindowCounterRateLimiter(self._storage)

    def hit(self, caller: Caller) -> Mapping[str, str]:
        """Counts one request, unless it is refused.

        Returns:
            Headers of its answer.

        Raises:
            ApiError: `rate_limited`.
        """
        limits: list[tuple[str, RateLimitItemPerMinute, str]] = []
        if (quota := self._tenancy.of(caller.tenant).requests_per_minute) is not None:
            limits.append(("tenant", _per_minute(quota), caller.tenant))
        if self._per_key is not None:
            # A key of the environment has no id, and a tenant has one of them at most.
            name = caller.key_id or f"of {caller.tenant}"
            limits.append(("key", _per_minute(self._per_key), name))
        if not limits:
            return {}
        full = [kind for kind, item, name in limits if not self._windows.test(item, kind, name)]
        if not full:
            for kind, item, name in limits:
                self._windows.hit(item, kind, name)
        policies = [self._policy(kind, item, name) for kind, item, name in limits]
        headers = rate_headers(policies)
        if not full:
            return headers
        seconds = max(policy.reset_seconds for policy in policies if policy.name in full)
        of = " and ".join(f"{p.quota} a minute for this {p.name}" for p in policies if p.name in full)
        raise ApiError(
            Code.RATE_LIMITED,
            f"Too many requests ({of}); try again in {seconds} s.",
            headers={"Retry-After": str(seconds), **headers},
        )

    def _policy(self, kind: str, item: RateLimitItemPerMinute, name: str) -> Policy:
        reset, left = self._windows.get_window_stats(item, kind, name)
        seconds = max(1, math.ceil(reset - time.time()))
        return Policy(kind, item.amount, MINUTE, left, seconds)


@lru_cache(1024)
def _per_minute(amount: int) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(amount)
