"""How much a tenant may use: requests a minute, candidates and events a day (UTC), and users.

Requests are counted in this server's memory by the `limits` library, in sliding windows: two numbers for each tenant and
key, whatever the rate. With n servers a tenant can therefore send n times as many. Headers are those of
draft-ietf-httpapi-ratelimit-headers.

Daily use is counted in memory and added to the store each time the change feed is polled. Servers that share a store
know each other's use within `change_poll_seconds`, and lose as much of the count if they are killed.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from penchant.service.access.keyring import Caller
from penchant.service.access.tenancy import Tenancy, TenantSettings
from penchant.service.errors import ApiError, Code
from penchant.service.settings import Settings
from penchant.service.store import keys
from penchant.service.store.database import Store

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


DAY: Final = 86_400


class Kind(StrEnum):
    """What is counted by the day."""

    CANDIDATES = "candidates"
    EVENTS = "events"

    def limit(self, settings: TenantSettings) -> int | None:
        """How many a tenant may use."""
        return settings.candidates_per_day if self is Kind.CANDIDATES else settings.events_per_day


class Quotas:
    """What tenants have used today; shared by the event loop and the feed's thread.

    Args:
        store: Where it is kept.
        tenancy: How much each may use.
    """

    def __init__(self, store: Store, tenancy: Tenancy) -> None:
        self._store = store
        self._tenancy = tenancy
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._day = 0
        self._stored: dict[tuple[str, str], int] = {}
        self._fresh: Counter[tuple[int, str, str]] = Counter()  # (day, tenant, kind): not in the store yet
        self._users: dict[str, int] = {}
        self._new_users: dict[str, set[str]] = {}  # admitted since the last look at the store

    def take(self, tenant: str, kind: Kind, amount: int) -> None:
        """Counts a use before it happens.

        Raises:
            ApiError: `quota_exceeded`; then nothing was counted.
        """
        limit = kind.limit(self._tenancy.of(tenant))
        with self._lock:
            day = self._today()
            used = self._stored.get((tenant, kind), 0) + self._fresh[day, tenant, kind]
            if limit is None or used + amount <= limit:
                self._fresh[day, tenant, kind] += amount
                return
        raise self._exceeded(kind, limit, max(0, limit - used), f"this request needs {amount}")

    def give_back(self, tenant: str, kind: Kind, amount: int) -> None:
        """Takes back what was counted and did not happen after all."""
        with self._lock:
            self._fresh[self._today(), tenant, kind] -= amount

    def limits_users(self, tenant: str) -> bool:
        """Whether the number of a tenant's users is bounded."""
        return self._tenancy.of(tenant).users is not None

    def refusal(self, tenant: str, user: str) -> ApiError | None:
        """Why a user of whom nothing is known cannot be learned from; None: it can, and is counted.

        Cost: the first time for a tenant, one count of its users in the store; so call it off the event loop.
        """
        limit = self._tenancy.of(tenant).users
        if limit is None:
            return None
        if tenant not in self._users:
            with self._store.reading() as connection:
                counted = keys.count_users(connection, [tenant])
            with self._lock:
                self._users |= counted
        with self._lock:
            new = self._new_users.setdefault(tenant, set())
            if user in new:
                return None
            if self._users.get(tenant, 0) + len(new) < limit:
                new.add(user)
                return None
        return self._exceeded("users", limit, 0, "this user would be one more")

    def flush(self) -> None:
        """Adds what was used to the store, and reads what all servers together used. Any thread may call it.

        Raises:
            SQLAlchemyError: The store fails; what was to be added waits for the next time.
        """
        with self._flushing:
            with self._lock:
                fresh = {key: amount for key, amount in self._fresh.items() if amount}
            if fresh:
                with self._store.writing() as connection:
                    for day in sorted({day for day, _, _ in fresh}):
                        of_day = {(tenant, kind): n for (d, tenant, kind), n in fresh.items() if d == day}
                        keys.add_usage(connection, day, of_day)
            with self._lock:
                today = self._today()
                for (day, tenant, kind), amount in fresh.items():
                    self._fresh[day, tenant, kind] -= amount
                    if day == today:
                        self._stored[tenant, kind] = self._stored.get((tenant, kind), 0) + amount
                self._fresh = Counter({key: amount for key, amount in self._fresh.items() if amount})
                seen = {tenant for tenant, _ in self._stored}
                limited = [tenant for tenant in self._users if self.limits_users(tenant)]
            with self._store.reading() as connection:
                stored = keys.find_usage(connection, today, seen) if seen else {}
                users = keys.count_users(connection, limited)
            with self._lock:
                if self._today() == today:
                    self._stored |= stored
                self._users = users
                self._new_users.clear()

    def load(self) -> None:
        """Reads what was used today before this server started."""
        with self._lock:
            today = self._today()
            with self._store.reading() as connection:
                self._stored = keys.find_usage(connection, today)

    def _today(self) -> int:
        day = int(self._store.clock() // DAY)
        if day != self._day:
            self._day = day
            self._stored = {}
        return day

    def _exceeded(self, kind: str, limit: int, left: int, why: str) -> ApiError:
        seconds = DAY - int(self._store.clock() % DAY)
        policy = Policy(kind, limit, DAY, left, seconds)
        of = "" if kind == "users" else " a day (UTC)"
        return ApiError(
            Code.QUOTA_EXCEEDED,
            f"The tenant may have {limit} {kind}{of}: {left} are left, and {why}.",
            headers={"Retry-After": str(seconds), **rate_headers([policy])},
        )
