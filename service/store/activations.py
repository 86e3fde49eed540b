"""Activations of bundles. The newest one says which bundle ranks, and a rollback adds another. All have tenant ""."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, func, select, text

from penchant.service.store import feed
from penchant.service.store.statements import AnyRow, insert, insert_new
from penchant.service.store.tables import activations

CHANGE: Final = "bundle"
"""Kind of the changes that concern bundles."""

NO_TENANT: Final = ""
"""Tenant column of bundles and activations, which belong to no tenant."""

_LOCK: Final = 0x70656E_6163_7469  # PostgreSQL advisory lock held while an activation is numbered


def find_active(connection: Connection) -> str | None:
    """Return the version of the bundle that ranks, or None if no server was ever started."""
    newest = list_activations(connection, 1)
    return newest[0].bundle_version if newest else None


def find_previous(connection: Connection) -> str | None:
    """Return the version of the bundle that ranked before the active one, or None if there was none."""
    c = activations.c
    statement = select(c.bundle_version).where(
        c.tenant == NO_TENANT, c.bundle_version != (find_active(connection) or "")
    )
    return connection.scalar(statement.order_by(c.number.desc()).limit(1))


def list_activations(connection: Connection, limit: int) -> Sequence[AnyRow]:
    """Return the last activations (number, bundle_version, activated_at), newest first."""
    c = activations.c
    statement = select(c.number, c.bundle_version, c.activated_at).where(c.tenant == NO_TENANT)
    return connection.execute(statement.order_by(c.number.desc()).limit(limit)).all()


def activate(connection: Connection, version: str, *, now: float) -> None:
    """Make a bundle the active one, and notify the servers."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    last = connection.scalar(select(func.max(activations.c.number))) or 0
    insert(connection, activations, [_row(last + 1, version, now)])
    feed.append(connection, NO_TENANT, CHANGE, {"version": version}, now)


def activate_first(connection: Connection, version: str, *, now: float) -> None:
    """Make a bundle the active one, unless the store has an activation."""
    insert_new(connection, activations, [_row(1, version, now)])


def _row(number: int, version: str, now: float) -> dict[str, object]:
    return {"tenant": NO_TENANT, "number": number, "bundle_version": version, "activated_at": now}
