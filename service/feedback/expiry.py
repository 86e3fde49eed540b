"""Removal of rankings and stored answers: those that have expired, and rankings beyond their tenant's quota of bytes.

Both are chores, which remove a slice of rows at a time, so that feedback never waits for long.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from penchant.service.access.limits import Tenancy
from penchant.service.feedback.chores import Transact
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.store.requests import (
    Slice,
    drop_older_answers,
    drop_older_rankings,
    drop_oldest_rankings,
    measure_rankings,
)
from penchant.service.telemetry.metrics import Telemetry, log, log_failure

_HOUR: Final = 3600.0
_TOLERANCE: Final = 0.05
"""Share of a quota that a tenant's rankings may grow by before they are measured again, and that is freed in advance."""


class Expiry:
    """A chore that removes expired rankings and stored answers.

    Args:
        settings: Times to live.
        telemetry: Telemetry that counts removed rows.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._rank_ttl_seconds = settings.rank_ttl_hours * _HOUR
        self._answer_ttl_seconds = settings.idempotency_ttl_hours * _HOUR
        self._telemetry = telemetry

    def step(self, transact: Transact, now: float) -> bool:
        """Remove a slice, of answers if no rankings are left to remove, and return whether there may be more."""
        before = now - self._rank_ttl_seconds
        removed: list[Slice] = list(transact(partial(drop_older_rankings, before=before)).values())
        if not removed:
            removed = [transact(partial(drop_older_answers, before=now - self._answer_ttl_seconds))]
            has_more = removed[0].has_more
        else:
            has_more = True
        self._telemetry.expired_rows.inc(sum(part.rows for part in removed))
        return has_more


class RankingQuota:
    """The quota of bytes of each tenant's stored rankings, as a chore that removes the oldest beyond it.

    What this server stores is counted. Whenever it adds up to a share of the quota, a thread that reads measures what
    the tenant has, which accounts for other servers, for expiry and for deleted users. A tenant exceeds its quota by no
    more than that share, for each server, and what is stored until the oldest are removed.

    Args:
        tenancy: Settings of tenants, with their quotas.
        store: The store.
        telemetry: Telemetry that counts removed rankings.
    """

    def __init__(self, tenancy: Tenancy, store: Store, telemetry: Telemetry) -> None:
        self._tenancy = tenancy
        self._store = store
        self._telemetry = telemetry
        self._lock = threading.Lock()  # guards the three attributes below
        self._grown: dict[
            str, int | None
        ] = {}  # bytes stored since the last measurement; None before the first
        self._due: dict[str, None] = {}
        self._excess: dict[str, int] = {}
        self._measuring: asyncio.Task[None] | None = None
        self._logged: dict[str, float] = {}

    # On the writer's thread

    @property
    def has_excess(self) -> bool:
        """Whether a tenant has stored more than its quota."""
        return bool(self._excess)

    def admits(self, tenant: str, size: int) -> bool:
        """Return whether a ranking of so many bytes may be stored at all."""
        quota = self._get_quota(tenant)
        if quota is None or size <= quota:
            return True
        self._log(tenant, quota)
        return False

    def count(self, sizes: Sequence[tuple[str, int]]) -> None:
        """Count the (tenant, bytes) of rankings that were stored."""
        with self._lock:
            for tenant, size in sizes:
                quota = self._get_quota(tenant)
                if quota is None:
                    continue
                grown = self._grown.get(tenant)
                self._grown[tenant] = None if grown is None else grown + size
                if grown is None or grown + size > _TOLERANCE * quota:
                    self._due[tenant] = None

    def step(self, transact: Transact, now: float) -> bool:  # noqa: ARG002
        """Remove a slice of the oldest rankings of each tenant over its quota, and return whether there may be more."""
        for tenant, excess in list(self._excess.items()):
            removed = transact(partial(drop_oldest_rankings, tenant=tenant, size=excess))
            self._telemetry.evicted_rankings.inc(removed.rows)
            with self._lock:
                self._excess[tenant] -= removed.size
                if self._excess[tenant] <= 0 or not removed.rows:
                    del self._excess[tenant]
        return self.has_excess

    # On the event loop

    def measure_due(self) -> None:
        """Start to measure the tenants whose rankings have grown, unless that is being done."""
        if self._due and (self._measuring is None or self._measuring.done()):
            self._measuring = asyncio.get_running_loop().create_task(self._measure())

    async def _measure(self) -> None:
        try:
            while self._due:
                with self._lock:
                    tenant = next(iter(self._due))
                    del self._due[tenant]
                    self._grown[tenant] = 0
                stored = await self._store.read(measure_rankings, tenant)
                quota = self._get_quota(tenant)
                if quota is not None and stored > quota:
                    with self._lock:
                        self._excess[tenant] = stored - int(quota * (1 - _TOLERANCE))
                    self._log(tenant, quota)
        except Exception as error:  # measured again after the next ranking of a tenant
            log_failure("rankings_not_measured", error)

    def _get_quota(self, tenant: str) -> int | None:
        return self._tenancy.get(tenant).ranking_bytes

    def _log(self, tenant: str, quota: int) -> None:
        """Log, at most once an hour for each tenant, that a quota is full."""
        now = time.monotonic()
        if now - self._logged.get(tenant, -_HOUR) >= _HOUR:
            self._logged[tenant] = now
            log.warning("ranking_quota_full", tenant=tenant, quota_bytes=quota)
