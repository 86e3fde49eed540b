"""Records of past requests, which expire: rankings by `rank_id`, and answers by idempotency key.

Old ones are removed in slices, each of which holds the write lock for a few milliseconds.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, select

from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import idempotency, rankings

SLICE_ROWS: Final = 100
"""Largest number of rows that are removed in one slice. Among a million answers, each touches several pages."""

SLICE_BYTES: Final = 16 * 2**20
"""Bytes of rankings after which a slice ends. Each page of a long row has to be freed."""


def find_ranking(connection: Connection, tenant: str, rank_id: str) -> AnyRow | None:
    """Return a ranking's row (user_id, shown, created_at), or None if it is unknown."""
    return connection.execute(
        select(rankings.c.user_id, rankings.c.shown, rankings.c.created_at).where(
            rankings.c.tenant == tenant, rankings.c.rank_id == rank_id
        )
    ).one_or_none()


def drop_rankings(connection: Connection, tenant: str, rank_ids: Sequence[str]) -> None:
    """Delete the rankings with these ids."""
    c = rankings.c
    for ids in chunks(rank_ids):
        connection.execute(delete(rankings).where(c.tenant == tenant, c.rank_id.in_(ids)))


class Slice(NamedTuple):
    """Rows that were removed in one slice.

    Attributes:
        rows: Number of rows.
        size: Bytes of the texts of rankings among them.
        has_more: Whether more rows may be left to remove.
    """

    rows: int
    size: int
    has_more: bool


def drop_older_rankings(connection: Connection, before: float, tenant: str | None = None) -> dict[str, Slice]:
    """Delete a slice of the rankings created before a time, the oldest first, of one tenant or of all.

    Returns:
        What was deleted, by tenant. Empty if nothing is left.
    """
    c = rankings.c
    conditions = [c.created_at < before] + ([] if tenant is None else [c.tenant == tenant])
    return _drop_slice(connection, *conditions)


def drop_oldest_rankings(connection: Connection, tenant: str, size: int) -> Slice:
    """Delete a slice of a tenant's rankings, the oldest first, and no more than needed to free `size` bytes."""
    dropped = _drop_slice(connection, rankings.c.tenant == tenant, enough=size)
    return dropped.get(tenant, Slice(0, 0, has_more=False))


def measure_rankings(connection: Connection, tenant: str) -> int:
    """Return the bytes of a tenant's stored rankings. Cost: a scan of the tenant's part of an index."""
    statement = select(func.sum(rankings.c.size)).where(rankings.c.tenant == tenant)
    return int(connection.scalar(statement) or 0)


def _drop_slice(
    connection: Connection, *conditions: ColumnElement[bool], enough: int = SLICE_BYTES
) -> dict[str, Slice]:
    """Delete the oldest of some rankings, until so many bytes are free or the slice has its full size."""
    c = rankings.c
    # The length of a value is known without reading it, unlike a column that is stored after a long one.
    oldest = select(c.tenant, c.rank_id, func.length(c.shown).label("size")).where(*conditions)
    rows = connection.execute(oldest.order_by(c.created_at).limit(SLICE_ROWS)).all()
    chosen: dict[str, list[AnyRow]] = {}
    freed = number = 0
    for row in rows:
        if freed >= min(enough, SLICE_BYTES):
            break
        chosen.setdefault(row.tenant, []).append(row)
        freed, number = freed + row.size, number + 1
    has_more = number < len(rows) or number == SLICE_ROWS
    for tenant, own in chosen.items():
        drop_rankings(connection, tenant, [row.rank_id for row in own])
    return {tenant: Slice(len(own), sum(row.size for row in own), has_more) for tenant, own in chosen.items()}


def find_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> dict[str, AnyRow]:
    """Return the stored answers (request_hash, answer, created_at) by idempotency key."""
    c = idempotency.c
    answers: dict[str, AnyRow] = {}
    for some in chunks(keys):
        statement = select(c.key, c.request_hash, c.answer, c.created_at).where(
            c.tenant == tenant, c.key.in_(some)
        )
        answers |= {row.key: row for row in connection.execute(statement)}
    return answers


def drop_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> None:
    """Delete the stored answers to these idempotency keys."""
    c = idempotency.c
    for some in chunks(keys):
        connection.execute(delete(idempotency).where(c.tenant == tenant, c.key.in_(some)))


def drop_older_answers(connection: Connection, before: float) -> Slice:
    """Delete a slice of the answers created before a time, the oldest first."""
    c = idempotency.c
    oldest = select(c.tenant, c.key).where(c.created_at < before).order_by(c.created_at).limit(SLICE_ROWS)
    keys: dict[str, list[str]] = {}
    for row in connection.execute(oldest):
        keys.setdefault(row.tenant, []).append(row.key)
    for tenant, own in keys.items():
        drop_answers(connection, tenant, own)
    rows = sum(map(len, keys.values()))
    return Slice(rows, 0, rows == SLICE_ROWS)
