"""What servers and commands of one store tell each other: rows that everybody reads in the order of their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import Connection, delete, func, insert, select, text

from penchant.service.store.tables import changes

PAGE: Final = 500  # changes read at a time
_LOCK: Final = (
    0x70656E_6368_616E67  # of PostgreSQL's advisory locks, the one that numbers are given out under
)


@dataclass(frozen=True)
class Change:
    """Something that others must hear of.

    Attributes:
        number: Place in the sequence, from 1, without gaps.
        tenant: Whom it concerns; "" for all.
        kind: What sort of thing it is: "keys", "tenant", "bundle", "forget"; "all" is never stored.
        detail: More about it. Never a user's id, for rows outlive users.
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
    """Tells the others, once the caller's write transaction is durable.

    On PostgreSQL it waits for other transactions that tell something: numbers become visible in their order, so that
    whoever has read up to a number has missed nothing below it. Hence tell last, just before the commit.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    connection.execute(
        insert(changes),
        {
            "tenant": tenant,
            "number": newest(connection) + 1,
            "kind": kind,
            "detail": orjson.dumps(dict(detail)).decode(),
            "created_at": created_at,
        },
    )


def newest(connection: Connection) -> int:
    """Number of the last change; 0 where there was none."""
    return connection.scalar(select(func.max(changes.c.number))) or 0


def after(connection: Connection, number: int) -> Sequence[Change]:
    """Up to `PAGE` changes with greater numbers, in their order."""
    rows = connection.execute(
        select(changes).where(changes.c.number > number).order_by(changes.c.number).limit(PAGE)
    )
    return [
        Change(row.number, row.tenant, row.kind, orjson.loads(row.detail), row.created_at) for row in rows
    ]


def prune(connection: Connection, before: float) -> int:
    """Removes changes older than `before`, Unix seconds; returns how many.

    The newest stays whatever its age: numbers go on from it.
    """
    last = newest(connection)
    return connection.execute(
        delete(changes).where(changes.c.created_at < before, changes.c.number < last)
    ).rowcount
