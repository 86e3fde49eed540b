"""API keys, settings of tenants, and the daily usage of tenants."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, delete, func, select, update

from penchant.service.store.statements import chunks, insert, insert_or_add, insert_or_replace
from penchant.service.store.tables import api_keys, tenant_usage, tenants, users

Usage = Mapping[tuple[str, str], int]
"""Amount used, by (tenant, kind)."""


@dataclass(frozen=True)
class StoredKey:
    """An API key without its secret.

    Attributes:
        tenant: Tenant that owns the key.
        key_id: Public part of the key.
        key_hash: SHA-256 of the whole key, 32 bytes.
        scopes: Names of the scopes that it grants.
        name: Name that its owner gave it.
        created_at: Unix seconds.
        revoked_at: Unix seconds. None while the key is valid.
    """

    tenant: str
    key_id: str
    key_hash: bytes
    scopes: tuple[str, ...]
    name: str
    created_at: float
    revoked_at: float | None = None


def add_key(connection: Connection, key: StoredKey) -> None:
    """Store a new key."""
    insert(connection, api_keys, [vars(key) | {"scopes": orjson.dumps(key.scopes).decode()}])


def list_keys(connection: Connection) -> Sequence[StoredKey]:
    """Return all keys ever created, including revoked ones, oldest first."""
    rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id))
    return [StoredKey(**{**row._mapping, "scopes": tuple(orjson.loads(row.scopes))}) for row in rows]


def has_keys(connection: Connection) -> bool:
    """Return whether a key was ever created."""
    return connection.execute(select(api_keys.c.key_id).limit(1)).first() is not None


def revoke_key(connection: Connection, key_id: str, now: float) -> StoredKey | None:
    """Revoke a key forever, and return it, or None if it does not exist. Revoking it again changes nothing."""
    connection.execute(
        update(api_keys)
        .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return next((key for key in list_keys(connection) if key.key_id == key_id), None)


def find_tenant_settings(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the settings of each tenant that has its own."""
    rows = connection.execute(select(tenants.c.tenant, tenants.c.settings).order_by(tenants.c.tenant))
    return {row.tenant: orjson.loads(row.settings) for row in rows}


def put_tenant(connection: Connection, tenant: str, settings: Mapping[str, Any], now: float) -> None:
    """Replace a tenant's settings."""
    row = {"tenant": tenant, "settings": orjson.dumps(dict(settings)).decode(), "updated_at": now}
    insert_or_replace(connection, tenants, [row])


def add_usage(connection: Connection, day: int, used: Usage) -> None:
    """Add to the usage of a day, counted in UTC days since 1970. Amounts may be negative.

    Rows are written in order, so that two servers that add at the same time cannot deadlock.
    """
    rows = [
        {"tenant": tenant, "day": day, "kind": kind, "amount": amount}
        for (tenant, kind), amount in sorted(used.items())
    ]
    insert_or_add(connection, tenant_usage, rows)


def find_usage(
    connection: Connection, day: int, names: Collection[str] | None = None
) -> dict[tuple[str, str], int]:
    """Return the amount that tenants used on a day, by (tenant, kind).

    Args:
        connection: Connection that reads.
        day: UTC days since 1970.
        names: Tenants to include. None includes all.
    """
    c = tenant_usage.c
    statement = select(c.tenant, c.kind, c.amount).where(c.day == day)
    parts = [statement] if names is None else [statement.where(c.tenant.in_(some)) for some in chunks(names)]
    return {(row.tenant, row.kind): row.amount for part in parts for row in connection.execute(part)}


def drop_older_usage(connection: Connection, before: int) -> int:
    """Delete the usage before a day, counted in UTC days since 1970, and return the number of rows."""
    return connection.execute(delete(tenant_usage).where(tenant_usage.c.day < before)).rowcount


def count_users(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return the number of users with feedback, by tenant. Cost: one pass over the index of these tenants' users."""
    return {
        tenant: connection.scalar(select(func.count()).where(users.c.tenant == tenant)) or 0
        for tenant in names
    }
