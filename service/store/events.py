"""The feedback log: each user's events in order of arrival."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from sqlalchemy import Connection, delete, exists, func, select

from penchant.service.store.features import drop_unneeded
from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import feedback_events, judged_items, users

MAX_SEQ: Final = 2**31 - 1
HISTORY: Final = "history"
"""First flag of an event of the past, whose information counts for its own day."""

_ROWS_AT_ONCE: Final = 1000  # rows in memory while a whole tenant is read
_PAYLOADS_AT_ONCE: Final = 8  # a payload may have megabytes


def has_retraction(connection: Connection, tenant: str, user: str, since: int) -> bool:
    """Return whether a user's log holds a retraction at seq `since` or later."""
    log = feedback_events.c
    statement = select(log.seq).where(
        log.tenant == tenant, log.user_id == user, log.seq >= since, log.target_event_id.is_not(None)
    )
    return connection.execute(statement.limit(1)).first() is not None


def find_first_seq(connection: Connection, tenant: str, user: str, since: int) -> int | None:
    """Return the place of a user's first event at seq `since` or later, or None if there is none."""
    log = feedback_events.c
    statement = select(log.seq).where(log.tenant == tenant, log.user_id == user, log.seq >= since)
    return connection.scalar(statement.order_by(log.seq).limit(1))


def find_retractions(connection: Connection, tenant: str, user: str) -> Sequence[AnyRow]:
    """Return (seq, event_id, target_event_id, replaced) of a user's retractions, in order. Cost: a scan of the log."""
    log = feedback_events.c
    statement = select(log.seq, log.event_id, log.target_event_id, log.replaced).where(
        log.tenant == tenant, log.user_id == user, log.target_event_id.is_not(None)
    )
    return connection.execute(statement.order_by(log.seq)).all()


def find_named_events(
    connection: Connection, tenant: str, user: str, event_ids: Iterable[str]
) -> list[AnyRow]:
    """Return (seq, event_id, replaced) of a user's events with these ids, of which several may have the same.

    Cost: a scan of the user's log for every few hundred ids.
    """
    log = feedback_events.c
    rows: list[AnyRow] = []
    for some in chunks(event_ids):
        statement = select(log.seq, log.event_id, log.replaced).where(
            log.tenant == tenant, log.user_id == user, log.event_id.in_(some)
        )
        rows += connection.execute(statement)
    return rows


def find_start_of_newest(connection: Connection, tenant: str, user: str, number: int) -> int:
    """Return the seq of a user's `number`th newest judgement, or 0 if the log has fewer judgements."""
    log = feedback_events.c
    statement = (
        select(log.seq)
        .where(log.tenant == tenant, log.user_id == user, log.target_event_id.is_(None))
        .order_by(log.seq.desc())
        .offset(number - 1)
        .limit(1)
    )
    return connection.scalar(statement) or 0


def find_payloads(connection: Connection, tenant: str, user: str, seqs: Sequence[int]) -> dict[int, str]:
    """Return the JSON payloads of some events of a user, by seq."""
    log = feedback_events.c
    payloads: dict[int, str] = {}
    for some in chunks(seqs):
        statement = select(log.seq, log.payload).where(
            log.tenant == tenant, log.user_id == user, log.seq.in_(some)
        )
        payloads |= {row.seq: row.payload for row in connection.execute(statement)}
    return payloads


def iterate_payloads(
    connection: Connection, tenant: str, user: str, seqs: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yield (seq, payload) of some events of a user, in the given order. Few payloads are in memory at a time."""
    for start in range(0, len(seqs), _PAYLOADS_AT_ONCE):
        some = seqs[start : start + _PAYLOADS_AT_ONCE]
        payloads = find_payloads(connection, tenant, user, some)
        yield from ((seq, payloads[seq]) for seq in some)


def count_events(connection: Connection) -> dict[str, int]:
    """Return the number of events of each tenant that has any. Cost: a scan of the log's key."""
    log = feedback_events.c
    rows = connection.execute(
        select(log.tenant, func.count().label("events")).group_by(log.tenant).order_by(log.tenant)
    )
    return {row.tenant: row.events for row in rows}


def iterate_logs(connection: Connection, tenant: str) -> Iterator[tuple[str, list[AnyRow]]]:
    """Yield each user of a tenant, sorted by id, with the user's log in order but without payloads.

    One log is in memory at a time. Payloads, which may be long, are read by `iterate_payloads`.
    """
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
            log.replaced.label("is_replaced"),
        )
        .where(log.tenant == tenant)
        .order_by(log.user_id, log.seq)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    for user, rows in groupby(connection.execute(statement), key=lambda row: str(row.user_id)):
        yield user, list(rows)


def find_users_with_older(connection: Connection, tenant: str, before: float, limit: int) -> list[str]:
    """Return up to `limit` users with events received before a time, unless a change of the user is under way.

    Cost: a range scan of an index.
    """
    c = feedback_events.c
    is_changing = exists().where(
        users.c.tenant == tenant, users.c.user_id == c.user_id, users.c.pending.is_not(None)
    )
    statement = select(c.user_id).where(c.tenant == tenant, c.received_at < before, ~is_changing)
    return list(connection.scalars(statement.distinct().limit(limit)))


def find_older_events(
    connection: Connection, tenant: str, user: str, before: float, limit: int
) -> Sequence[AnyRow]:
    """Return some of a user's events that were received before a time, oldest first.

    Each is (seq, target_event_id, replaced). There are at most `limit` of them.
    """
    c = feedback_events.c
    statement = select(c.seq, c.target_event_id, c.replaced).where(
        c.tenant == tenant, c.user_id == user, c.received_at < before
    )
    return connection.execute(statement.order_by(c.received_at, c.seq).limit(limit)).all()


def drop_events(
    connection: Connection, tenant: str, user: str, seqs: Sequence[int]
) -> tuple[list[bytes], list[bytes]]:
    """Delete events of a user, and the features that no other judgement needs.

    Returns:
        Keys of the deleted features, and keys of the items that the events had judged.
    """
    items = judged_items.c
    judged: set[tuple[str, bytes]] = set()
    item_keys: set[bytes] = set()
    for some in chunks(seqs):
        selected = (items.tenant == tenant, items.user_id == user, items.seq.in_(some))
        for row in connection.execute(
            select(items.extractor, items.feature_key, items.prompt_key, items.item_key).where(*selected)
        ):
            judged.update((row.extractor, key) for key in (row.feature_key, row.prompt_key) if key)
            item_keys.add(row.item_key)
        connection.execute(delete(judged_items).where(*selected))
        log = feedback_events.c
        connection.execute(
            delete(feedback_events).where(log.tenant == tenant, log.user_id == user, log.seq.in_(some))
        )
    return drop_unneeded(connection, tenant, judged), sorted(item_keys)
