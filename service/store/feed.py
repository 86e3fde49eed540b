"""The change feed: numbered rows by which the servers and commands of one store notify each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import Connection, delete, func, select, text

from penchant.service.store.statements import insert
from penchant.service.store.tables import changes

PAGE: Final = 500  # changes read at a time
_LOCK: Final = 0x70656E_6368_616E67  # PostgreSQL advisory lock held while a change is numbered


@dataclass(frozen=True)
class Change:
    """A change that other servers must learn of.

    Attributes:
        number: Place in the sequence, from 1, without gaps.
        tenant: Tenant that the change concerns, or "" for all.
        kind: "keys", "tenant", "bundle" or "forget". The kind "all" is never stored.
        detail: Further data. It never holds a user's id, because rows outlive users.
        created_at: Unix seconds.
    """

    number: int
    tenant: str
    kind: str
    detail: Mapping[str, Any]
    created_at: float


def append(
    connection: Connection, tenant: str, kind: str, detail: Mapping[str, Any], created_at: float
) -> None:
    """Append a change, which other servers see when the caller's write transaction commits.

    On PostgreSQL this waits for other transactions that append. Numbers then become visible in order, and a server that
    has read up to a number has missed none below it. Call this last, just before the commit.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    row = {
        "tenant": tenant,
        "number": find_newest(connection) + 1,
        "kind": kind,
        "detail": orjson.dumps(dict(detail)).decode(),
        "created_at": created_at,
    }
    insert(connection, changes, [row])


def find_newest(connection: Connection) -> int:
    """Return the number of the last change, or 0 if there is none."""
    return connection.scalar(select(func.max(changes.c.number))) or 0


def list_changes(connection: Connection, after: int) -> Sequence[Change]:
    """Return up to `PAGE` changes with numbers greater than `after`, in order."""
    rows = connection.execute(
        select(changes).where(changes.c.number > after).order_by(changes.c.number).limit(PAGE)
    )
    return [
        Change(row.number, row.tenant, row.kind, orjson.loads(row.detail), row.created_at) for row in rows
    ]


def prune(connection: Connection, before: float) -> int:
    """Delete changes created before a time in Unix seconds, and return their number.

    The newest change always stays, because numbering continues from it.
    """
    last = find_newest(connection)
    return connection.execute(
        delete(changes).where(changes.c.created_at < before, changes.c.number < last)
    ).rowcount
