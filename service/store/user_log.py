"""What is stored about one user, read in parts that are bounded in bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, LargeBinary, cast, func, select

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
    """
    log = feedback_events.c
    conditions = (log.tenant == tenant, log.user_id == user)
    size = _count_bytes(connection, log.payload) + _ENVELOPE_BYTES
    sizes = connection.execute(
        select(log.seq, size.label("size"))
        .where(*conditions, log.seq > min(after, MAX_SEQ))
        .order_by(log.seq)
        .limit(limit + 1)
    ).all()
    page = next(_split(sizes[:limit], max_bytes), [])
    if not page:
        return (), False
    rows = connection.execute(
        select(feedback_events)
        .where(*conditions, log.seq.between(page[0].seq, page[-1].seq))
        .order_by(log.seq)
    )
    return rows.all(), len(page) < len(sizes)


def iterate_events(
    connection: Connection, tenant: str, user: str
) -> Iterator[tuple[Sequence[AnyRow], dict[int, list[AnyRow]]]]:
    """Yield a user's events in parts, in order, each part with the rows of the judged texts by seq."""
    after, has_more = -MAX_SEQ, True
    items = judged_items.c
    while has_more:
        events, has_more = list_events(
            connection, tenant, user, after=after, limit=_PART_ROWS, max_bytes=PART_BYTES
        )
        if not events:
            return
        after = events[-1].seq
        texts: dict[int, list[AnyRow]] = {}
        for row in connection.execute(
            select(judged_items)
            .where(items.tenant == tenant, items.user_id == user, items.seq.between(events[0].seq, after))
            .order_by(items.seq, items.extractor, items.position)
        ):
            texts.setdefault(row.seq, []).append(row)
        yield events, texts


def find_states(connection: Connection, tenant: str, user: str) -> Sequence[AnyRow]:
    """Return a user's state under each bundle."""
    c = user_states.c
    statement = select(user_states).where(c.tenant == tenant, c.user_id == user)
    return connection.execute(statement.order_by(c.bundle_version)).all()


def iterate_rankings(connection: Connection, tenant: str, user: str) -> Iterator[Sequence[AnyRow]]:
    """Yield the rankings made for a user in parts, oldest first."""
    c = rankings.c
    listed = connection.execute(
        select(c.rank_id, func.length(c.shown).label("size"))
        .where(c.tenant == tenant, c.user_id == user)
        .order_by(c.created_at, c.rank_id)
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


def _count_bytes(connection: Connection, column: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the number of bytes of a text in UTF-8, as an expression."""
    if connection.dialect.name == "postgresql":
        return func.octet_length(column)
    return func.length(cast(column, LargeBinary))
