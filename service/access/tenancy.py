"""What differs from tenant to tenant: settings kept in the store, over those of the server."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from penchant.service.settings import Settings
from penchant.service.store import feed, keys

CHANGE: Final = "tenant"
"""Kind of the changes that tell of tenants' settings."""
MAX_TENANT_CHARS: Final = 64

_Limit = Field(default=None, gt=0, lt=2**53)


class TenantSettings(BaseModel):
    """Settings of one tenant; None: the server's, or none.

    Attributes:
        keep_texts: Whether the log holds texts, or features alone.
        retention_days: After so many days a judgement is forgotten; None: never.
        requests_per_minute: Of all its keys together, on each server.
        candidates_per_day: Candidates ranked.
        events_per_day: Feedback events accepted.
        users: Users with feedback.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    keep_texts: bool = True
    retention_days: float | None = Field(default=None, gt=0)
    requests_per_minute: int | None = _Limit
    candidates_per_day: int | None = _Limit
    events_per_day: int | None = _Limit
    users: int | None = _Limit


class Tenancy:
    """The settings of every tenant, in memory; the change feed keeps them fresh.

    Args:
        settings: What holds where a tenant has no limit of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits: dict[str, Any] = {
            "requests_per_minute": settings.tenant_requests_per_minute,
            "candidates_per_day": settings.tenant_candidates_per_day,
            "events_per_day": settings.tenant_events_per_day,
            "users": settings.tenant_users,
        }
        self._default = TenantSettings(**self._limits)
        self._of: Mapping[str, TenantSettings] = {}

    def load(self, stored: Mapping[str, Mapping[str, Any]]) -> None:
        """Replaces what is known of all tenants. Any thread may call it: the change is one assignment."""
        self._of = {
            tenant: TenantSettings(**self._limits | {k: v for k, v in own.items() if v is not None})
            for tenant, own in stored.items()
        }

    def retentions(self) -> dict[str, float]:
        """Days that judgements are kept, of the tenants that do not keep them for ever."""
        kept = {tenant: own.retention_days for tenant, own in self._of.items()}
        return {tenant: days for tenant, days in kept.items() if days is not None}

    def of(self, tenant: str) -> TenantSettings:
        """What holds for a tenant. Cost: a dictionary look-up."""
        return self._of.get(tenant, self._default)


def tenant_fault(tenant: str) -> str | None:
    """What is wrong with the name of a tenant, or None."""
    if not 1 <= len(tenant) <= MAX_TENANT_CHARS:
        return f"a tenant's name has 1 to {MAX_TENANT_CHARS} characters"
    return None if tenant.isprintable() else "a tenant's name is printable"


def own_settings(connection: Connection, tenant: str) -> TenantSettings:
    """What is stored for a tenant itself, without the server's limits."""
    return TenantSettings(**keys.find_tenant_settings(connection).get(tenant, {}))


def put_settings(connection: Connection, tenant: str, settings: TenantSettings, now: float) -> None:
    """Replaces a tenant's own settings in the caller's write transaction; running servers hear of it."""
    keys.put_tenant(connection, tenant, settings.model_dump(exclude_none=True), now)
    feed.append(connection, tenant, CHANGE, {}, now)
