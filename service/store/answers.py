"""Answers kept under idempotency keys."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import idempotency


def find_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> dict[str, AnyRow]:
    """The stored answers to idempotency keys, by key: request_hash, answer, created_at."""
    kept = idempotency.c
    found: dict[str, AnyRow] = {}
    for some in chunks(keys):
        statement = select(kept.key, kept.request_hash, kept.answer, kept.created_at).where(
            kept.tenant == tenant, kept.key.in_(some)
        )
        found |= {row.key: row for row in connection.execute(statement)}
    return found


def drop_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> None:
    """Removes the stored answers to these keys."""
    for some in chunks(keys):
        connection.execute(
            delete(idempotency).where(idempotency.c.tenant == tenant, idempotency.c.key.in_(some))
        )


def drop_older_answers(connection: Connection, before: float) -> int:
    """Removes answers that were given before a time; returns how many."""
    return connection.execute(delete(idempotency).where(idempotency.c.created_at < before)).rowcount
