"""What was learned from users' history: events of the past, each of which counts for the day on which it happened."""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, or_, select

from penchant.service.store.events import HISTORY
from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import feedback_events


def find_history(
    connection: Connection, tenant: str, user: str, spans: Sequence[tuple[float, float]]
) -> list[AnyRow]:
    """Return (happened_at, weight, discount, groups) of what was learned from a user's history.

    Args:
        connection: Connection to read from.
        tenant: Tenant of the user.
        user: Id of the user.
        spans: Start and end of each time to read, in Unix seconds.

    Cost: a scan of the user's log. This is not for the writer.
    """
    log = feedback_events.c
    rows: list[AnyRow] = []
    for some in chunks(spans):
        in_spans = [and_(log.happened_at >= start, log.happened_at < end) for start, end in some]
        rows += connection.execute(
            select(log.happened_at, log.weight, log.discount, log.groups).where(
                log.tenant == tenant,
                log.user_id == user,
                log.flags.startswith(HISTORY),
                log.discount > 0,
                or_(*in_spans),
            )
        )
    return rows


def find_newer_history(connection: Connection, tenant: str, user: str, since: int) -> list[AnyRow]:
    """Return a user's events from a seq on, in order, whether they are history or not.

    Rows hold seq, event_id, received_at, happened_at, weight, discount, groups and flags. The first one tells whether
    the log has changed before it.
    """
    log = feedback_events.c
    statement = select(
        log.seq,
        log.event_id,
        log.received_at,
        log.happened_at,
        log.weight,
        log.discount,
        log.groups,
        log.flags,
    ).where(log.tenant == tenant, log.user_id == user, log.seq >= since)
    return list(connection.execute(statement.order_by(log.seq)))


def find_anchor(connection: Connection, tenant: str, user: str, seq: int) -> tuple[str, float] | None:
    """Return (event_id, received_at) of the event at a place, which tell it apart. None if there is none."""
    log = feedback_events.c
    row = connection.execute(
        select(log.event_id, log.received_at).where(log.tenant == tenant, log.user_id == user, log.seq == seq)
    ).one_or_none()
    return None if row is None else (row.event_id, row.received_at)
