"""What is stored about one user, read in parts that are bounded in bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, LargeBinary, cast, func, select

from penchant.service.store.events import MAX_SEQ
from penchant.service.store.statements import AnyRow
from penchant.service.store.tables import (
    answered_users,
    feedback_events,
    idempotency,
    judged_items,
    rankings,
    user_states,
)

PART_BYTES: Final = 8 * 2**20
"""Bytes of events or rankings after which a part ends. A part has at least one."""

_PART_ROWS: Final = 500
_PART_ANSWERS: Final = 100
_READ_AHEAD: Final = 4
_ENVELOPE_BYTES: Final = 1000  # upper bound of what an event's answer has beside the payload


def list_events(
    connection: Connection,
    tenant: str,
    user: str,
    *,
    after: int,
    limit: int,
    max_bytes: int,
) -> tuple[Sequence[AnyRow], bool]:
    """Return the first events of a user with seq > `after`, and whether there are more.

    Args:
        connection: Connection to read from.
        tenant: Tenant of the user.
        user: Id of the user.
        after: Seq after which the page begins.
        limit: Largest number of events.
        max_bytes: Largest number of bytes of the events as JSON, unless a single one is larger.

    Cost: SQLite also reads up to four events beyond the page. PostgreSQL needs a transaction.
    """
    page: list[AnyRow] = []
    size, has_more = 0, False
    with _list_sizes(connection, tenant, user, after, limit + 1) as sizes:
        for row in sizes:
            if page and (len(page) == limit or size + row.size > max_bytes):
                has_more = True
                break
            page.append(row)
            size += row.size
    return _find_events(connection, tenant, user, page), has_more


def iterate_events(
    connection: Connection, tenant: str, user: str
) -> Iterator[tuple[Sequence[AnyRow], dict[int, list[AnyRow]]]]:
    """Yield a user's events in parts, in order, each part with the rows of the judged texts by seq."""
    items = judged_items.c
    with _list_sizes(connection, tenant, user) as sizes:
        for part in _split(sizes, PART_BYTES):
            texts: dict[int, list[AnyRow]] = {}
            of_part = items.seq.between(part[0].seq, part[-1].seq)
            statement = select(judged_items).where(items.tenant == tenant, items.user_id == user, of_part)
            for row in connection.execute(statement.order_by(items.seq, items.extractor, items.position)):
                texts.setdefault(row.seq, []).append(row)
            yield _find_events(connection, tenant, user, part), texts


def _list_sizes(
    connection: Connection, tenant: str, user: str, after: int = -MAX_SEQ, limit: int | None = None
) -> CursorResult[Any]:
    """Return (seq, size) of a user's events with seq > `after`, in order. The size bounds that of its JSON.

    PostgreSQL knows sizes. SQLite reads a text to know its size, so only a few rows are read ahead.
    """
    log = feedback_events.c
    is_postgres = connection.dialect.name == "postgresql"
    size = func.octet_length(log.payload) if is_postgres else func.length(cast(log.payload, LargeBinary))
    return connection.execute(
        select(log.seq, (size + _ENVELOPE_BYTES).label("size"))
        .where(log.tenant == tenant, log.user_id == user, log.seq > min(after, MAX_SEQ))
        .order_by(log.seq)
        .limit(limit)
        .execution_options(yield_per=_PART_ROWS if is_postgres else _READ_AHEAD)
    )


def _find_events(connection: Connection, tenant: str, user: str, part: Sequence[AnyRow]) -> Sequence[AnyRow]:
    """Return the events from the first to the last of a part."""
    if not part:
        return ()
    log = feedback_events.c
    of_part = log.seq.between(part[0].seq, part[-1].seq)
    statement = select(feedback_events).where(log.tenant == tenant, log.user_id == user, of_part)
    return connection.execute(statement.order_by(log.seq)).all()


def find_states(connection: Connection, tenant: str, user: str) -> Sequence[AnyRow]:
    """Return a user's state under each bundle."""
    c = user_states.c
    statement = select(user_states).where(c.tenant == tenant, c.user_id == user)
    return connection.execute(statement.order_by(c.bundle_version)).all()


def iterate_rankings(connection: Connection, tenant: str, user: str) -> Iterator[Sequence[AnyRow]]:
    """Yield the rankings made for a user in parts, oldest first."""
    c = rankings.c
    oldest_first = (
        c.created_at + 0.0
    )  # by the column itself, SQLite would scan the tenant's rankings, which are sorted
    listed = connection.execute(
        select(c.rank_id, func.length(c.shown).label("size"))
        .where(c.tenant == tenant, c.user_id == user)
        .order_by(oldest_first, c.rank_id)
        .execution_options(yield_per=_PART_ROWS)
    )
    for part in _split(listed, PART_BYTES):
        ids = [row.rank_id for row in part]
        rows = connection.execute(select(rankings).where(c.tenant == tenant, c.rank_id.in_(ids)))
        yield sorted(rows, key=lambda row: (row.created_at, row.rank_id))


def iterate_answers(connection: Connection, tenant: str, user: str) -> Iterator[Sequence[AnyRow]]:
    """Yield the stored answers that name a user in parts, by key."""
    named, c = answered_users.c, idempotency.c
    keys = connection.scalars(
        select(named.key)
        .where(named.tenant == tenant, named.user_id == user)
        .order_by(named.key)
        .execution_options(yield_per=_PART_ANSWERS)
    )
    for part in keys.partitions():
        statement = select(idempotency).where(c.tenant == tenant, c.key.in_(part))
        yield connection.execute(statement.order_by(c.key)).all()


def _split(rows: Iterable[AnyRow], max_bytes: int) -> Iterator[list[AnyRow]]:
    """Yield rows that have a `size` in lists of at most `max_bytes`, or of a single larger row."""
    part: list[AnyRow] = []
    size = 0
    for row in rows:
        if part and (size + row.size > max_bytes or len(part) == _PART_ROWS):
            yield part
            part, size = [], 0
        part.append(row)
        size += row.size
    if part:
        yield part
