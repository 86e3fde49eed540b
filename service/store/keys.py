"""What is asked of the database about keys, tenants and what they use."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Executable, Table, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from penchant.service.store.tables import api_keys, tenant_usage, tenants, users

CHUNK: Final = 500  # tenants in one IN list
Usage = Mapping[tuple[str, str], int]
"""(tenant, kind) → amount"""


@dataclass(frozen=True)
class StoredKey:
    """A key as the store knows it.

    Attributes:
        tenant: Whose it is.
        key_id: Its public part.
        key_hash: SHA-256 of the whole key, 32 bytes.
        scopes: What it may do.
        name: What its owner calls it.
        created_at: Unix seconds.
        revoked_at: Unix seconds; None while it is valid.
    """

    tenant: str
    key_id: str
    key_hash: bytes
    scopes: tuple[str, ...]
    name: str
    created_at: float
    revoked_at: float | None = None


def add_key(connection: Connection, key: StoredKey) -> None:
    """Stores a new key."""
    row = {**vars(key), "scopes": orjson.dumps(key.scopes).decode()}
    connection.execute(insert(api_keys), row)


def all_keys(connection: Connection) -> Sequence[StoredKey]:
    """Every key ever made, revoked ones too, oldest first."""
    rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id))
    return [StoredKey(**{**row._mapping, "scopes": tuple(orjson.loads(row.scopes))}) for row in rows]


def has_keys(connection: Connection) -> bool:
    """Whether a key was ever made here."""
    return connection.execute(select(api_keys.c.key_id).limit(1)).first() is not None


def revoke_key(connection: Connection, key_id: str, now: float) -> StoredKey | None:
    """Makes a key invalid, for ever; None where there is no such key. A second time changes nothing."""
    connection.execute(
        update(api_keys)
        .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return next((key for key in all_keys(connection) if key.key_id == key_id), None)


def tenant_settings(connection: Connection) -> dict[str, dict[str, Any]]:
    """The settings of every tenant that has some."""
    rows = connection.execute(select(tenants.c.tenant, tenants.c.settings).order_by(tenants.c.tenant))
    return {row.tenant: orjson.loads(row.settings) for row in rows}


def put_tenant(connection: Connection, tenant: str, settings: Mapping[str, Any], now: float) -> None:
    """Replaces a tenant's settings."""
    statement = _upsert(
        connection, tenants, lambda new: {"settings": new.settings, "updated_at": new.updated_at}
    )
    row = {"tenant": tenant, "settings": orjson.dumps(dict(settings)).decode(), "updated_at": now}
    connection.execute(statement, row)


def add_usage(connection: Connection, day: int, used: Usage) -> None:
    """Adds to what tenants used on a day (days since 1970, UTC); amounts may be negative.

    Rows are written in order, so that two servers that add at the same time cannot block each other.
    """
    rows = [
        {"tenant": tenant, "day": day, "kind": kind, "amount": amount}
        for (tenant, kind), amount in sorted(used.items())
    ]
    if rows:
        added = _upsert(connection, tenant_usage, lambda new: {"amount": tenant_usage.c.amount + new.amount})
        connection.execute(added, rows)


def usage(connection: Connection, day: int, of: Collection[str] | None = None) -> dict[tuple[str, str], int]:
    """What these tenants used on a day, or more of them; None: all."""
    statement = select(tenant_usage.c.tenant, tenant_usage.c.kind, tenant_usage.c.amount).where(
        tenant_usage.c.day == day
    )
    if of is not None and len(of) <= CHUNK:
        statement = statement.where(tenant_usage.c.tenant.in_(of))
    return {(row.tenant, row.kind): row.amount for row in connection.execute(statement)}


def drop_older_usage(connection: Connection, before: int) -> int:
    """Removes what tenants used before a day (days since 1970, UTC); returns how many rows."""
    return connection.execute(delete(tenant_usage).where(tenant_usage.c.day < before)).rowcount


def count_users(connection: Connection, of: Iterable[str]) -> dict[str, int]:
    """How many users of each tenant have given feedback. Cost: one pass over the index of these tenants' users."""
    return {
        tenant: connection.scalar(select(func.count()).where(users.c.tenant == tenant)) or 0 for tenant in of
    }


def _upsert(connection: Connection, table: Table, change: Callable[[Any], Mapping[str, Any]]) -> Executable:
    """Inserts a row; where its primary key is taken, `change` makes new columns of what was to be inserted."""
    keys = [column.name for column in table.primary_key]
    if connection.dialect.name == "postgresql":
        theirs = postgresql.insert(table)
        return theirs.on_conflict_do_update(index_elements=keys, set_=change(theirs.excluded))
    ours = sqlite.insert(table)
    return ours.on_conflict_do_update(index_elements=keys, set_=change(ours.excluded))
