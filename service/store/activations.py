"""Which bundle ranks: the newest activation holds, and going back is one more. Rows belong to no tenant ("")."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, func, insert, select, text

from penchant.service.store import feed
from penchant.service.store.statements import AnyRow, insert_new
from penchant.service.store.tables import activations

CHANGE: Final = "bundle"
"""Kind of the changes that tell of bundles."""

NOBODY_S: Final = ""
"""Tenant of bundles and their activations."""

_NUMBERING: Final = 0x70656E_6163_7469  # of PostgreSQL's advisory locks: activations are numbered under it


def active(connection: Connection) -> str | None:
    """Version of the bundle that ranks; None where no server was ever started."""
    found = history(connection, 1)
    return found[0].bundle_version if found else None


def previous(connection: Connection) -> str | None:
    """Version of the bundle that ranked before the one that does."""
    c = activations.c
    statement = select(c.bundle_version).where(
        c.tenant == NOBODY_S, c.bundle_version != (active(connection) or "")
    )
    return connection.scalar(statement.order_by(c.number.desc()).limit(1))


def history(connection: Connection, limit: int) -> Sequence[AnyRow]:
    """The last activations, newest first: number, bundle_version, activated_at."""
    c = activations.c
    statement = select(c.number, c.bundle_version, c.activated_at).where(c.tenant == NOBODY_S)
    return connection.execute(statement.order_by(c.number.desc()).limit(limit)).all()


def activate(connection: Connection, version: str, *, now: float) -> None:
    """Has a bundle rank from now on; servers hear of it."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _NUMBERING})
    last = connection.scalar(select(func.max(activations.c.number))) or 0
    connection.execute(insert(activations), _row(last + 1, version, now))
    feed.append(connection, NOBODY_S, CHANGE, {"version": version}, now)


def activate_first(connection: Connection, version: str, *, now: float) -> None:
    """Has a bundle rank, unless one does or did."""
    insert_new(connection, activations, [_row(1, version, now)])


def _row(number: int, version: str, now: float) -> dict[str, object]:
    return {"tenant": NOBODY_S, "number": number, "bundle_version": version, "activated_at": now}
