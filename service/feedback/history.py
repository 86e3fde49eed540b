"""What was learned from a user's history of single days, so that each day stays within its bound.

Summing it up takes a scan of the user's log. A reader does that before the events are passed to the writer, which then
only adds what was logged in the meantime. The bound is exact in any order of arrival.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from penchant.service.feedback.trust import DAY_SECONDS, compute_information, find_day
from penchant.service.store.events import HISTORY
from penchant.service.store.long_logs.history import find_anchor, find_history, find_newer_history
from penchant.service.store.statements import AnyRow
from penchant.service.store.users import find_user


@dataclass(frozen=True)
class HistoryRead:
    """Information learned from the history of some days of a user, as of the end of the log when it was read.

    Attributes:
        learned: Information by UTC day, in judgement weights.
        version: Version of the log.
        last_seq: Place of its last event.
        anchor: What tells that event apart. None if it was not in the log any more.
    """

    learned: Mapping[int, float]
    version: int
    last_seq: int
    anchor: tuple[str, float] | None


def read_history(
    connection: Connection, tenant: str, days: Mapping[str, Iterable[int]]
) -> dict[str, HistoryRead]:
    """Return the history of each user on these UTC days.

    Args:
        connection: Connection with one consistent view of the store.
        tenant: Tenant of the users.
        days: Days of each user.

    Cost: a scan of each user's log.
    """
    return {user: _read_history(connection, tenant, user, set(own)) for user, own in days.items()}


def bring_up_to_date(
    connection: Connection, tenant: str, user: str, read: HistoryRead, stamp: tuple[int, int]
) -> Mapping[int, float]:
    """Return the information learned by day at the end of the log, of the days that were read.

    Args:
        connection: Connection in a transaction that has locked the user.
        tenant: Tenant of the user.
        user: Id of the user.
        read: An earlier reading.
        stamp: Version of the log, and place of its last event.

    Cost: one query for the events since. A scan of the log if it has changed in any other way, as by a merge.
    """
    version, last_seq = stamp
    if stamp == (read.version, read.last_seq):
        return read.learned
    is_longer = last_seq > read.last_seq and version - read.version == last_seq - read.last_seq
    rows = find_newer_history(connection, tenant, user, read.last_seq) if is_longer else []
    if read.last_seq and rows:
        is_longer = (rows[0].event_id, rows[0].received_at) == read.anchor
        rows = rows[1:]
    if not is_longer:
        return _read_history(connection, tenant, user, set(read.learned)).learned
    learned = dict(read.learned)
    _add(learned, (row for row in rows if row.flags is not None and row.flags.startswith(HISTORY)))
    return learned


def _read_history(connection: Connection, tenant: str, user: str, days: set[int]) -> HistoryRead:
    learned = dict.fromkeys(sorted(days), 0.0)
    row = find_user(connection, tenant, user)
    if row is None:
        return HistoryRead(learned, 0, 0, None)
    _add(learned, find_history(connection, tenant, user, list(_iterate_spans(learned))))
    return HistoryRead(
        learned, row.version, row.last_seq, find_anchor(connection, tenant, user, row.last_seq)
    )


def _iterate_spans(days: Iterable[int]) -> Iterator[tuple[float, float]]:
    """Yield the time spans of days, sorted. Neighbours are joined."""
    start: int | None = None
    last = 0
    for day in days:
        if start is not None and day > last + 1:
            yield start * DAY_SECONDS, (last + 1) * DAY_SECONDS
            start = None
        start, last = day if start is None else start, day
    if start is not None:
        yield start * DAY_SECONDS, (last + 1) * DAY_SECONDS


def _add(learned: dict[int, float], rows: Iterable[AnyRow]) -> None:
    """Add what was learned from events to their days, if these are among `learned`."""
    for row in rows:
        day = find_day(row.happened_at)
        if day in learned:
            groups = tuple(orjson.loads(row.groups)) if row.groups else ()
            learned[day] += compute_information(row.weight * row.discount, groups)
