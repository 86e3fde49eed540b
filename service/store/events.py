"""The feedback log: users' events, in the order in which they came."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from sqlalchemy import Connection, bindparam, delete, func, select, update

from penchant.service.store.features import drop_unneeded
from penchant.service.store.statements import CHUNK, AnyRow, chunks
from penchant.service.store.tables import feedback_events, judged_items

MAX_SEQ: Final = 2**31 - 1
ROWS_AT_ONCE: Final = 1000
"""Rows in memory at once."""

_EVENTS_BY_ID = select(
    feedback_events.c.event_id, feedback_events.c.content_hash, feedback_events.c.user_id
).where(
    feedback_events.c.tenant == bindparam("tenant"),
    feedback_events.c.event_id.in_(bindparam("ids", expanding=True)),
)
_MOVED: Final = (feedback_events, judged_items)
"""Tables whose rows have a place in a user's log."""


def known_events(
    connection: Connection, tenant: str, event_ids: Sequence[str]
) -> dict[str, tuple[bytes, str]]:
    """Of these event ids the ones in the log: id → (content hash, user)."""
    found = {}
    for ids in chunks(event_ids):
        for event_id, digest, user in connection.execute(_EVENTS_BY_ID, {"tenant": tenant, "ids": ids}):
            found[event_id] = (digest, user)
    return found


def page_events(connection: Connection, tenant: str, user: str, after: int, limit: int) -> Sequence[AnyRow]:
    """Up to `limit` events of a user with seq > `after`, oldest first."""
    log = feedback_events.c
    return connection.execute(
        select(log.seq, log.event_id, log.payload, log.received_at)
        .where(log.tenant == tenant, log.user_id == user, log.seq > min(after, MAX_SEQ))
        .order_by(log.seq)
        .limit(limit)
    ).all()


def has_retraction(connection: Connection, tenant: str, user: str, since: int) -> bool:
    """Whether a user's log takes anything back from seq `since` on."""
    log = feedback_events.c
    statement = select(log.seq).where(
        log.tenant == tenant, log.user_id == user, log.seq >= since, log.target_event_id.is_not(None)
    )
    return connection.execute(statement.limit(1)).first() is not None


def newest_judgements(connection: Connection, tenant: str, user: str, number: int) -> int:
    """Seq from which on a user's log holds `number` judgements, or all of them where it has fewer."""
    log = feedback_events.c
    statement = (
        select(log.seq)
        .where(log.tenant == tenant, log.user_id == user, log.target_event_id.is_(None))
        .order_by(log.seq.desc())
        .offset(number - 1)
        .limit(1)
    )
    return connection.scalar(statement) or 0


def payloads(connection: Connection, tenant: str, user: str, seqs: Sequence[int]) -> dict[int, str]:
    """Of these events of a user what was sent, JSON, by seq."""
    log = feedback_events.c
    found: dict[int, str] = {}
    for some in chunks(seqs):
        statement = select(log.seq, log.payload).where(
            log.tenant == tenant, log.user_id == user, log.seq.in_(some)
        )
        found |= {row.seq: row.payload for row in connection.execute(statement)}
    return found


def tenants_with_feedback(connection: Connection) -> dict[str, int]:
    """Tenants that have a log, each with its number of events. Cost: a scan of the log's key."""
    log = feedback_events.c
    rows = connection.execute(
        select(log.tenant, func.count().label("events")).group_by(log.tenant).order_by(log.tenant)
    )
    return {row.tenant: row.events for row in rows}


def user_logs(connection: Connection, tenant: str) -> Iterator[tuple[str, list[AnyRow]]]:
    """Every user's log of a tenant, each in order, users in the order of their names; one user in memory at a time."""
    log = feedback_events.c
    statement = (
        select(
            log.user_id,
            log.seq,
            log.event_id,
            log.type,
            log.value,
            log.weight,
            log.discount,
            log.groups,
            log.target_event_id.label("target"),
            log.source,
            log.payload,
        )
        .where(log.tenant == tenant)
        .order_by(log.user_id, log.seq)
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    for user, rows in groupby(connection.execute(statement), key=lambda row: str(row.user_id)):
        yield user, list(rows)


def log_order(connection: Connection, tenant: str, user: str) -> list[tuple[int, float]]:
    """(seq, received_at) of a user's events, in order."""
    c = feedback_events.c
    statement = select(c.seq, c.received_at).where(c.tenant == tenant, c.user_id == user).order_by(c.seq)
    return [(row.seq, row.received_at) for row in connection.execute(statement)]


def move_log(
    connection: Connection, tenant: str, source: str, into: str, places: Mapping[str, Mapping[int, int]]
) -> None:
    """Gives two users' events to one of them, at new places.

    Args:
        connection: A write transaction.
        tenant: Of both.
        source: Whose events are given away.
        into: Who has them then, beside the own ones.
        places: By user: old seq → new seq; the new ones are distinct.
    """
    for table in _MOVED:
        c = table.c
        # Below 0 first: no event takes the place of another that has not gone yet.
        statement = (
            update(table)
            .where(c.tenant == tenant, c.user_id == bindparam("of"), c.seq == bindparam("old"))
            .values(user_id=into, seq=bindparam("new"))
        )
        rows = [
            {"of": user, "old": old, "new": -new}
            for user in (source, into)
            for old, new in places[user].items()
        ]
        if rows:
            connection.execute(statement, rows)
        connection.execute(
            update(table).where(c.tenant == tenant, c.user_id == into, c.seq < 0).values(seq=-c.seq)
        )


def users_with_older(connection: Connection, tenant: str, before: float, limit: int) -> list[str]:
    """Up to `limit` users with events received before a time. Cost: a range of an index."""
    c = feedback_events.c
    statement = select(c.user_id).where(c.tenant == tenant, c.received_at < before).distinct().limit(limit)
    return list(connection.scalars(statement))


def older_events(connection: Connection, tenant: str, user: str, before: float) -> list[AnyRow]:
    """Events of a user received before a time: seq, target_event_id."""
    c = feedback_events.c
    statement = select(c.seq, c.target_event_id).where(
        c.tenant == tenant, c.user_id == user, c.received_at < before
    )
    return list(connection.execute(statement))


def seqs_of(connection: Connection, tenant: str, user: str, event_ids: Sequence[str]) -> list[AnyRow]:
    """Events of a user by their ids: seq, target_event_id."""
    c = feedback_events.c
    found: list[AnyRow] = []
    for start in range(0, len(event_ids), CHUNK):
        some = event_ids[start : start + CHUNK]
        found += connection.execute(
            select(c.seq, c.target_event_id).where(
                c.tenant == tenant, c.user_id == user, c.event_id.in_(some)
            )
        )
    return found


def drop_events(
    connection: Connection, tenant: str, user: str, seqs: Sequence[int]
) -> tuple[list[bytes], list[bytes]]:
    """Removes events of a user, and the features that no judgement needs any more.

    Returns:
        Keys of the removed features, and of the items that these events had judged.
    """
    items = judged_items.c
    judged: set[tuple[str, bytes]] = set()
    item_keys: set[bytes] = set()
    for start in range(0, len(seqs), CHUNK):
        some = seqs[start : start + CHUNK]
        mine = (items.tenant == tenant, items.user_id == user, items.seq.in_(some))
        for row in connection.execute(
            select(items.extractor, items.feature_key, items.item_key).where(*mine)
        ):
            judged.add((row.extractor, row.feature_key))
            item_keys.add(row.item_key)
        connection.execute(delete(judged_items).where(*mine))
        log = feedback_events.c
        connection.execute(
            delete(feedback_events).where(log.tenant == tenant, log.user_id == user, log.seq.in_(some))
        )
    return drop_unneeded(connection, tenant, judged), sorted(item_keys)
