"""Limits of a tenant: requests per minute, candidates and events per day (UTC), and users.

Requests are counted in this server's memory by the `limits` library, in sliding windows. A window needs two numbers for
each tenant and key, at any rate. Each server counts on its own, so a tenant can send n times as many requests to n
servers. The response headers follow draft-ietf-httpapi-ratelimit-headers.

Daily use is counted in memory and added to the store each time the change feed is polled. Servers that share a store
see each other's use within `change_poll_seconds`. A server that is killed loses the use that it counted since its last
poll.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from penchant.service.access.keyring import Caller
from penchant.service.errors import ApiError, Code
from penchant.service.settings import Settings
from penchant.service.store import feed, keys
from penchant.service.store.database import Store

CHANGE_KIND: Final = "tenant"
"""Kind of the feed's changes that concern settings of tenants."""
MAX_TENANT_CHARS: Final = 64

_Limit = Field(default=None, gt=0, lt=2**53)


class TenantSettings(BaseModel):
    """Settings of a tenant. In stored settings, a limit of None means the server's limit; otherwise it means no limit.

    Attributes:
        keep_texts: Whether the log keeps texts in addition to features.
        retention_days: Days after which a judgement is forgotten. None: never.
        requests_per_minute: Limit of requests with all keys together, on each server.
        candidates_per_day: Limit of ranked candidates.
        events_per_day: Limit of accepted feedback events.
        users: Limit of users with feedback.
        ranking_bytes: Limit of the bytes of stored rankings.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    keep_texts: bool = True
    retention_days: float | None = Field(default=None, gt=0)
    requests_per_minute: int | None = _Limit
    candidates_per_day: int | None = _Limit
    events_per_day: int | None = _Limit
    users: int | None = _Limit
    ranking_bytes: int | None = _Limit


class Tenancy:
    """The settings of all tenants in memory. The change feed keeps them up to date.

    Args:
        settings: Settings of the server, with the limits of tenants that have none of their own.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits: dict[str, Any] = {
            "requests_per_minute": settings.tenant_requests_per_minute,
            "candidates_per_day": settings.tenant_candidates_per_day,
            "events_per_day": settings.tenant_events_per_day,
            "users": settings.tenant_users,
            "ranking_bytes": settings.tenant_ranking_bytes,
        }
        self._default = TenantSettings(**self._limits)
        self._settings: Mapping[str, TenantSettings] = {}

    def load(self, stored: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the stored settings of all tenants. Any thread may call this: they are replaced in one assignment."""
        self._settings = {
            tenant: TenantSettings(**self._limits | {k: v for k, v in own.items() if v is not None})
            for tenant, own in stored.items()
        }

    def get_retention_days(self) -> dict[str, float]:
        """Return `retention_days` by tenant, of the tenants that do not keep judgements forever."""
        retentions = {tenant: own.retention_days for tenant, own in self._settings.items()}
        return {tenant: days for tenant, days in retentions.items() if days is not None}

    def get(self, tenant: str) -> TenantSettings:
        """Return the settings of a tenant, with the limits of the server where it has none. Cost: a lookup."""
        return self._settings.get(tenant, self._default)


def find_tenant_name_error(tenant: str) -> str | None:
    """Return why the name of a tenant is invalid, or None if it is valid."""
    if not 1 <= len(tenant) <= MAX_TENANT_CHARS:
        return f"a tenant's name must have 1 to {MAX_TENANT_CHARS} characters"
    return None if tenant.isprintable() else "a tenant's name must have printable characters only"


def find_own_settings(connection: Connection, tenant: str) -> TenantSettings:
    """Return the stored settings of a tenant, without the limits of the server."""
    return TenantSettings(**keys.find_tenant_settings(connection).get(tenant, {}))


def put_settings(connection: Connection, tenant: str, settings: TenantSettings, now: float) -> None:
    """Replace the stored settings of a tenant in the caller's write transaction, and notify running servers."""
    keys.put_tenant(connection, tenant, settings.model_dump(exclude_none=True), now)
    feed.append(connection, tenant, CHANGE_KIND, {}, now)


MINUTE: Final = 60


@dataclass(frozen=True)
class Limit:
    """A limit and what remains of it, for the response headers.

    Attributes:
        name: Name in lower case.
        quota: Amount allowed per window.
        window_seconds: Length of the window.
        remaining: Amount that remains.
        reset_seconds: Seconds until more is available.
    """

    name: str
    quota: int
    window_seconds: int
    remaining: int
    reset_seconds: int


def format_rate_limit_headers(limits: Sequence[Limit]) -> dict[str, str]:
    """Return the headers `RateLimit` and `RateLimit-Policy` (structured fields, RFC 9651). Empty without limits."""
    if not limits:
        return {}
    return {
        "RateLimit-Policy": ", ".join(
            f'"{limit.name}";q={limit.quota};w={limit.window_seconds}' for limit in limits
        ),
        "RateLimit": ", ".join(
            f'"{limit.name}";r={limit.remaining};t={limit.reset_seconds}' for limit in limits
        ),
    }


class RequestLimiter:
    """Limits requests per minute. Use it only on the event loop.

    Args:
        settings: Settings with the limit of each key.
        tenancy: Settings of tenants, with the limit of each tenant.
    """

    def __init__(self, settings: Settings, tenancy: Tenancy) -> None:
        self._per_key = settings.key_requests_per_minute
        self._tenancy = tenancy
        self._storage = MemoryStorage()
        self._windows = SlidingWindowCounterRateLimiter(self._storage)

    def count(self, caller: Caller) -> Mapping[str, str]:
        """Count a request. A refused request is not counted.

        Returns:
            Rate limit headers of the answer.

        Raises:
            ApiError: `rate_limited`, if a limit of the tenant or the key is reached.
        """
        windows: list[tuple[str, RateLimitItemPerMinute, str]] = []
        if (quota := self._tenancy.get(caller.tenant).requests_per_minute) is not None:
            windows.append(("tenant", _per_minute(quota), caller.tenant))
        if self._per_key is not None:
            # A key of the environment has no id, but a tenant has at most one such key.
            name = caller.key_id or f"of {caller.tenant}"
            windows.append(("key", _per_minute(self._per_key), name))
        if not windows:
            return {}
        full = {kind for kind, item, name in windows if not self._windows.test(item, kind, name)}
        if not full:
            for kind, item, name in windows:
                self._windows.hit(item, kind, name)
        limits = [self._build_limit(kind, item, name) for kind, item, name in windows]
        headers = format_rate_limit_headers(limits)
        if not full:
            return headers
        reached = [limit for limit in limits if limit.name in full]
        seconds = max(limit.reset_seconds for limit in reached)
        listed = " and ".join(f"{limit.quota} per minute for this {limit.name}" for limit in reached)
        raise ApiError(
            Code.RATE_LIMITED,
            f"Too many requests. The limit is {listed}. Try again in {seconds} s.",
            headers={"Retry-After": str(seconds), **headers},
        )

    def _build_limit(self, kind: str, item: RateLimitItemPerMinute, name: str) -> Limit:
        reset, remaining = self._windows.get_window_stats(item, kind, name)
        seconds = max(1, math.ceil(reset - time.time()))
        return Limit(kind, item.amount, MINUTE, remaining, seconds)


@lru_cache(1024)
def _per_minute(amount: int) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(amount)


DAY: Final = 86_400


class QuotaKind(StrEnum):
    """What is counted per day."""

    CANDIDATES = "candidates"
    EVENTS = "events"

    def get_limit(self, settings: TenantSettings) -> int | None:
        """Return the limit of a tenant. None if it has none."""
        return settings.candidates_per_day if self is QuotaKind.CANDIDATES else settings.events_per_day


class Quotas:
    """Use of tenants today, and their numbers of users. The event loop and the feed's thread share it.

    Args:
        store: Store that keeps the use.
        tenancy: Settings of tenants, with their limits.
    """

    def __init__(self, store: Store, tenancy: Tenancy) -> None:
        self._store = store
        self._tenancy = tenancy
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._day = 0
        self._stored: dict[tuple[str, str], int] = {}
        self._fresh: Counter[tuple[int, str, str]] = Counter()  # by (day, tenant, kind), not yet in the store
        self._users: dict[str, int] = {}
        self._new_users: dict[str, set[str]] = {}  # by tenant, admitted since users were last counted

    def spend(self, tenant: str, kind: QuotaKind, amount: int) -> None:
        """Count use in advance.

        Raises:
            ApiError: `quota_exceeded`, if the rest of the quota is smaller than the amount. Nothing is counted then.
        """
        limit = kind.get_limit(self._tenancy.get(tenant))
        with self._lock:
            day = self._today()
            used = self._stored.get((tenant, kind), 0) + self._fresh[day, tenant, kind]
            if limit is None or used + amount <= limit:
                self._fresh[day, tenant, kind] += amount
                return
        raise self._build_error(kind, limit, max(0, limit - used), f"This request needs {amount}.")

    def refund(self, tenant: str, kind: QuotaKind, amount: int) -> None:
        """Subtract use that was counted in advance but did not take place."""
        with self._lock:
            self._fresh[self._today(), tenant, kind] -= amount

    def has_user_limit(self, tenant: str) -> bool:
        """Return whether a tenant has a limit of users."""
        return self._tenancy.get(tenant).users is not None

    def admit_user(self, tenant: str, user: str) -> ApiError | None:
        """Count a new user, and return None. If the tenant has too many users, return the error instead.

        Cost: The first call for a tenant counts its users in the store, so call this off the event loop.
        """
        limit = self._tenancy.get(tenant).users
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
        return self._build_error("users", limit, 0, "This user would be a new one.")

    def flush(self) -> None:
        """Add new use to the store, and read the use of all servers. Any thread may call this.

        Raises:
            SQLAlchemyError: If the store fails. Use that was not added is kept for the next call.
        """
        with self._flushing:
            with self._lock:
                fresh = {key: amount for key, amount in self._fresh.items() if amount}
            if fresh:
                with self._store.writing() as connection:
                    for day in sorted({day for day, _, _ in fresh}):
                        used = {(tenant, kind): n for (d, tenant, kind), n in fresh.items() if d == day}
                        keys.add_usage(connection, day, used)
            with self._lock:
                today = self._today()
                for (day, tenant, kind), amount in fresh.items():
                    self._fresh[day, tenant, kind] -= amount
                    if day == today:
                        self._stored[tenant, kind] = self._stored.get((tenant, kind), 0) + amount
                self._fresh = Counter({key: amount for key, amount in self._fresh.items() if amount})
                seen = {tenant for tenant, _ in self._stored}
                limited = [tenant for tenant in self._users if self.has_user_limit(tenant)]
            with self._store.reading() as connection:
                stored = keys.find_usage(connection, today, seen) if seen else {}
                users = keys.count_users(connection, limited)
            with self._lock:
                if self._today() == today:
                    self._stored |= stored
                self._users = users
                self._new_users.clear()

    def load(self) -> None:
        """Read today's use from the store."""
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

    def _build_error(self, kind: str, limit: int, remaining: int, reason: str) -> ApiError:
        seconds = DAY - int(self._store.clock() % DAY)
        headers = format_rate_limit_headers([Limit(kind, limit, DAY, remaining, seconds)])
        period = "" if kind == "users" else " per day (UTC)"
        return ApiError(
            Code.QUOTA_EXCEEDED,
            f"The tenant's limit is {limit} {kind}{period}, and {remaining} remain. {reason}",
            headers={"Retry-After": str(seconds), **headers},
        )
