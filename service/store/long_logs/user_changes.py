"""Changes of a user that are made in parts, each in a transaction of its own: deleting the user, and moving the log.

Between two parts the writer serves others. `users.pending` says what is under way, so that another server, or the next
start of this one, can continue. The caller holds the locks of the users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select, update

from penchant.service.store.events import drop_events
from penchant.service.store.statements import AnyRow, insert_new
from penchant.service.store.tables import (
    answered_users,
    feedback_events,
    idempotency,
    judged_items,
    rankings,
    users,
)

PART_EVENTS = 100
"""Events that are deleted or moved in one transaction, which takes about 15 ms, and 30 ms if two logs alternate."""

PART_ROWS = 250
"""Rankings or stored answers that are deleted or moved in one transaction."""

PART_BYTES = 8 * 2**20
"""Size of the rankings that are read, to be deleted, in one transaction. A larger ranking is read alone."""

_LOG_TABLES = (feedback_events, judged_items)  # tables whose rows have a place in a user's log


@dataclass(frozen=True)
class DeletedPart:
    """What one part of a deletion removed.

    Attributes:
        features: Keys of the deleted features, which no other judgement of the tenant needs.
        items: Keys of the items that the deleted events had judged.
        shown: The column `shown` of the deleted rankings.
        is_last: Whether no event, ranking or answer of the user is left.
    """

    features: Sequence[bytes]
    items: Sequence[bytes]
    shown: Sequence[bytes]
    is_last: bool


def delete_part(connection: Connection, tenant: str, user: str) -> DeletedPart:
    """Delete some of a user's events, or rankings, or stored answers. The row of the user and the states stay."""
    log = feedback_events.c
    seqs = connection.scalars(
        select(log.seq)
        .where(log.tenant == tenant, log.user_id == user)
        .order_by(log.seq)
        .limit(PART_EVENTS + 1)
    ).all()
    if seqs:
        features, items = drop_events(connection, tenant, user, seqs[:PART_EVENTS])
        if len(seqs) > PART_EVENTS:
            return DeletedPart(features, items, (), is_last=False)
    else:
        features, items = [], []
    shown, has_more_rankings = _delete_rankings(connection, tenant, user)
    keys = _find_answers(connection, tenant, user)
    c = idempotency.c
    connection.execute(delete(idempotency).where(c.tenant == tenant, c.key.in_(keys)))
    is_last = not has_more_rankings and len(keys) < PART_ROWS
    return DeletedPart(features, items, shown, is_last)


def _delete_rankings(connection: Connection, tenant: str, user: str) -> tuple[Sequence[bytes], bool]:
    """Delete some of a user's rankings. Return what they had shown, and whether there are more."""
    c = rankings.c
    mine = (c.tenant == tenant, c.user_id == user)
    sizes = connection.execute(select(c.rank_id, c.size).where(*mine).limit(PART_ROWS + 1)).all()
    ids: list[str] = []
    total = 0
    for row in sizes[:PART_ROWS]:
        total += row.size
        if ids and total > PART_BYTES:
            break
        ids.append(row.rank_id)
    unwanted = delete(rankings).where(c.tenant == tenant, c.rank_id.in_(ids)).returning(c.shown)
    return (connection.scalars(unwanted).all() if ids else ()), len(sizes) > len(ids)


def _find_answers(connection: Connection, tenant: str, user: str) -> Sequence[str]:
    """Return the keys of some stored answers that name a user."""
    c = answered_users.c
    return connection.scalars(
        select(c.key).where(c.tenant == tenant, c.user_id == user).limit(PART_ROWS)
    ).all()


def list_places(
    connection: Connection, tenant: str, user: str, *, after: int, until: int
) -> Sequence[AnyRow]:
    """Return (seq, received_at) of a user's next events beyond `after`, at most up to `until`, in order.

    There are one more than a part moves.
    """
    c = feedback_events.c
    statement = select(c.seq, c.received_at).where(
        c.tenant == tenant, c.user_id == user, c.seq > after, c.seq <= until
    )
    return connection.execute(statement.order_by(c.seq).limit(PART_EVENTS + 1)).all()


def move_runs(
    connection: Connection, tenant: str, source: str, into: str, runs: Sequence[tuple[int, int, int]]
) -> None:
    """Move runs of one user's events into another user's log.

    The events of two logs may alternate, so that each run is one event. All runs are therefore one call to the database.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of both users.
        source: User who has the events.
        into: User who gets them, who may be the same.
        runs: For each run, the place of its first and of its last event, and the new place of the first. The others
            follow at the same distances. The new places must be free.
    """
    if not runs:
        return
    places = [{"first": first, "last": last, "shift": to - first} for first, last, to in runs]
    for table in _LOG_TABLES:
        c = table.c
        run = c.seq.between(bindparam("first"), bindparam("last"))
        move = update(table).where(c.tenant == tenant, c.user_id == source, run)
        connection.execute(move.values(user_id=into, seq=c.seq + bindparam("shift")), places)


def move_requests(connection: Connection, tenant: str, source: str, into: str) -> bool:
    """Give some of one user's rankings and stored answers to another user, and return whether there are more."""
    c = rankings.c
    ids = select(c.rank_id).where(c.tenant == tenant, c.user_id == source).limit(PART_ROWS)
    moved = connection.execute(
        update(rankings).where(c.tenant == tenant, c.rank_id.in_(ids.scalar_subquery())).values(user_id=into)
    )
    keys = _find_answers(connection, tenant, source)
    insert_new(connection, answered_users, [{"tenant": tenant, "user_id": into, "key": key} for key in keys])
    a = answered_users.c
    connection.execute(delete(answered_users).where(a.tenant == tenant, a.user_id == source, a.key.in_(keys)))
    return moved.rowcount >= PART_ROWS or len(keys) >= PART_ROWS


def find_pending(connection: Connection) -> Sequence[AnyRow]:
    """Return (tenant, user_id, pending) of users whose change is under way. Cost: a scan of a small index."""
    c = users.c
    return connection.execute(
        select(c.tenant, c.user_id, c.pending).where(c.pending.is_not(None)).limit(PART_ROWS)
    ).all()
