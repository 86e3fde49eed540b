"""Settings of tenants. They are stored, and override those of the server."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from penchant.service.settings import Settings
from penchant.service.store import feed, keys

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
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    keep_texts: bool = True
    retention_days: float | None = Field(default=None, gt=0)
    requests_per_minute: int | None = _Limit
    candidates_per_day: int | None = _Limit
    events_per_day: int | None = _Limit
    users: int | None = _Limit


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
