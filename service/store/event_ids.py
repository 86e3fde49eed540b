"""Which events of the log ids name. Replaced events, and their retractions, have ids that name nothing any more."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import orjson
from sqlalchemy import Connection, bindparam, literal_column, select, text, update

from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import feedback_events

Place = tuple[str, str, int]
"""(tenant, user, seq): the place of an event in the log."""

# SQLite cannot know that a tenant has many events, and would scan them for three ids. So it gets the ids as a table, for
# whose rows it uses the index. `replaced = 0` is a part of the statements, because the index is only used with it.
_LISTED: Final = {
    "sqlite": "SELECT value AS id FROM json_each(:ids)",
    "postgresql": "SELECT id FROM json_array_elements_text(CAST(:ids AS json)) AS listed(id)",
}
_HOLDERS: Final = {
    dialect: text(
        f"WITH named AS ({listed})"  # noqa: S608 - both parts are constants
        " SELECT event_id, content_hash, user_id, seq FROM named CROSS JOIN feedback_events"
        " WHERE tenant = :tenant AND event_id = id AND replaced = 0"
    )
    for dialect, listed in _LISTED.items()
}
_NAMED_BY_DIALECT: Final = {
    "sqlite": "SELECT json_extract(value, '$[0]') AS of_user, json_extract(value, '$[1]') AS at_seq,"
    " json_extract(value, '$[2]') AS id FROM json_each(:events)",
    "postgresql": "SELECT value->>0 AS of_user, CAST(value->>1 AS integer) AS at_seq, value->>2 AS id"
    " FROM json_array_elements(CAST(:events AS json)) AS listed(value)",
}
_RETRACTIONS: Final = {
    dialect: text(
        f"WITH named AS ({named})"  # noqa: S608 - both parts are constants
        " SELECT target_event_id, event_id, content_hash, user_id, seq FROM named CROSS JOIN feedback_events"
        " WHERE tenant = :tenant AND target_event_id = id AND user_id = of_user AND seq > at_seq"
        " AND replaced = 0 LIMIT :limit"
    )
    for dialect, named in _NAMED_BY_DIALECT.items()
}


def find_holders(connection: Connection, tenant: str, event_ids: Iterable[str]) -> list[AnyRow]:
    """Return (event_id, content_hash, user_id, seq) of the events that these ids name. Replaced events have no name.

    Cost: a look-up in an index for each id.
    """
    rows: list[AnyRow] = []
    for ids in chunks(event_ids):
        parameters = {"tenant": tenant, "ids": orjson.dumps(list(ids)).decode()}
        rows += connection.execute(_HOLDERS[connection.dialect.name], parameters)
    return rows


def find_retractions_of(
    connection: Connection, tenant: str, events: Iterable[tuple[str, int, str]], limit: int
) -> list[AnyRow]:
    """Return retractions of these events, as (target_event_id, event_id, content_hash, user_id, seq).

    A retraction of an event names its id, and comes later in the same user's log. An earlier one, or one in another log,
    names an event that is not in the log any more.

    Args:
        connection: Connection to read from.
        tenant: Tenant of the events.
        events: User, seq and id of each event. The ids are distinct.
        limit: Number of retractions of one event beyond which not all of them are returned.
    """
    rows: list[AnyRow] = []
    waiting = list(chunks(events))
    while waiting:
        some = waiting.pop()
        most = limit * len(some)
        parameters = {"tenant": tenant, "limit": most, "events": orjson.dumps(some).decode()}
        found = connection.execute(_RETRACTIONS[connection.dialect.name], parameters).all()
        if len(found) < most or len(some) == 1:
            rows += found
        else:  # one event has so many that those of others may be missing
            half = len(some) // 2
            waiting += [some[:half], some[half:]]
    return rows


def mark_replaced(connection: Connection, places: Iterable[Place]) -> None:
    """Note that the ids of these events and retractions name nothing any more."""
    c = feedback_events.c
    statement = (
        update(feedback_events)
        .where(
            c.tenant == bindparam("of_tenant"),
            c.user_id == bindparam("of_user"),
            c.seq == bindparam("at_seq"),
        )
        .values(replaced=1)
    )
    rows = [{"of_tenant": tenant, "of_user": user, "at_seq": seq} for tenant, user, seq in sorted(places)]
    if rows:
        connection.execute(statement, rows)


def find_received(connection: Connection, tenant: str, received_at: float) -> set[tuple[str, str, bytes]]:
    """Return (user, event id, content hash) of the events that were received at one moment, replaced ones included."""
    log = feedback_events.c
    statement = select(log.user_id, log.event_id, log.content_hash).where(
        log.tenant == tenant, log.received_at == received_at
    )
    return {(row.user_id, row.event_id, row.content_hash) for row in connection.execute(statement)}


def find_targets(
    connection: Connection, tenant: str, user: str, retractions: Sequence[AnyRow]
) -> list[AnyRow]:
    """Return (seq, target_event_id, replaced) of the events that a user's retractions name.

    A retraction names the newest earlier event with its target's id that was replaced if the retraction was. A
    replaced retraction of an event that was not replaced is not in force, and is taken to name nothing.

    Args:
        connection: Connection to read from.
        tenant: Tenant of the user.
        user: Id of the user.
        retractions: Rows of retractions, with the same columns.

    Cost: look-ups in an index. A scan of the user's log if one of the retractions was replaced.
    """
    c = feedback_events.c
    found: list[AnyRow] = []
    for replaced in (0, 1):
        named = [row for row in retractions if row.replaced == replaced]
        places: dict[str, list[int]] = {}  # of the events with an id, in order
        rows: dict[int, AnyRow] = {}
        for ids in chunks(dict.fromkeys(row.target_event_id for row in named)):
            statement = (
                select(c.event_id, c.seq, c.target_event_id, c.replaced)
                .where(c.tenant == tenant, c.user_id == user, c.event_id.in_(ids))
                .where(c.replaced == literal_column(str(replaced)))
                .order_by(c.seq)
            )
            for row in connection.execute(statement):
                places.setdefault(row.event_id, []).append(row.seq)
                rows[row.seq] = row
        for retraction in named:
            seqs = places.get(retraction.target_event_id, [])
            if before := bisect_left(seqs, retraction.seq):
                found.append(rows[seqs[before - 1]])
    return found
