"""How much a tenant may use in a day (UTC), and how many users it may have.

Counted in memory and added to the store at every look of the change feed: servers of one store know of each other's use
within `change_poll_seconds`, and so much of the count is lost when one is killed.
"""

import threading
from collections import Counter
from enum import StrEnum
from typing import Final

from penchant.service.access.limits import Policy, rate_headers
from penchant.service.access.tenancy import Tenancy, TenantSettings
from penchant.service.errors import ApiError, Code
from penchant.service.store import keys
from penchant.service.store.database import Store

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
