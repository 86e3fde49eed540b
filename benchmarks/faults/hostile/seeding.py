"""Fills a store with long logs and many stored answers, as copies of what a server has written.

No server may use the store meanwhile. All statements run in the database, so that 20,000 events take seconds.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    String,
    Table,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    update,
)

from benchmarks.faults.stores import Store
from penchant.service.store.database import Store as Database
from penchant.service.store.tables import (
    answered_users,
    checkpoints,
    feedback_events,
    idempotency,
    judged_items,
    rankings,
    user_states,
    users,
)

_TENANT: Final = "default"
_LOG: Final = (feedback_events, judged_items)


def lengthen_log(store: Store, user: str, events: int) -> None:
    """Repeat the log of a user until it has this many events, which arrived one second after another.

    Its states are removed, as if the server had been upgraded.

    Args:
        store: The store.
        user: User with a log of which `events` is a multiple.
        events: Number of events.
    """
    with _writing(store) as connection:
        mine = users.c.tenant == _TENANT, users.c.user_id == user
        present = connection.execute(select(users.c.last_seq).where(*mine)).scalar_one()
        log = feedback_events.c.tenant == _TENANT, feedback_events.c.user_id == user
        earlier = feedback_events.c.received_at - events + feedback_events.c.seq
        connection.execute(update(feedback_events).where(*log).values(received_at=earlier))
        numbers = _numbers(events // present - 1)
        for table in _LOG if events > present else ():
            seq = table.c.seq + present * numbers.c.number
            changed: dict[str, ColumnElement[Any]] = {"seq": seq}
            if table is feedback_events:
                changed["event_id"] = _text(f"{user}-") + _text(seq)
                changed["received_at"] = table.c.received_at + present * numbers.c.number
            _copy(connection, table, changed, numbers, table.c.user_id == user)
        connection.execute(update(users).where(*mine).values(last_seq=events, feedback_events=events))
        for states in (user_states, checkpoints):
            connection.execute(delete(states).where(states.c.user_id == user))


def copy_user(store: Store, user: str, prefix: str, copies: int) -> None:
    """Copy the log of a user to the users `prefix-1`, `prefix-2` and so on."""
    with _writing(store) as connection:
        numbers = _numbers(copies)
        name = _text(f"{prefix}-") + _text(numbers.c.number)
        for table in (users, *_LOG):
            changed: dict[str, ColumnElement[Any]] = {"user_id": name}
            if table is feedback_events:
                changed["event_id"] = name + "-" + _text(table.c.seq)
            _copy(connection, table, changed, numbers, table.c.user_id == user)


def copy_answers(store: Store, copies: int, prefix: str, named: int) -> None:
    """Copy the one stored answer, and let the copies name the users `prefix-1` to `prefix-named` in turn."""
    with _writing(store) as connection:
        numbers = _numbers(copies)
        key = _text("copy-") + _text(numbers.c.number)
        name = _text(f"{prefix}-") + _text(numbers.c.number % named + 1)
        original = connection.execute(select(idempotency.c.key)).scalar_one()
        _copy(connection, idempotency, {"key": key}, numbers, idempotency.c.key == original)
        changed: dict[str, ColumnElement[Any]] = {"key": key, "user_id": name}
        _copy(connection, answered_users, changed, numbers, answered_users.c.key == original)


def count_ranking_bytes(store: Store) -> int:
    """Return the bytes of all stored rankings. Servers may run."""
    database = Database.open(store.settings(), exclusive=False)
    try:
        with database.reading() as connection:
            return int(connection.execute(select(func.sum(rankings.c.size))).scalar() or 0)
    finally:
        database.close()


@contextmanager
def _writing(store: Store) -> Iterator[Connection]:
    database = Database.open(store.settings(), patient=True)
    try:
        with database.writing() as connection:
            yield connection
    finally:
        database.close()


def _numbers(last: int) -> CTE:
    """Return the numbers from 1 to `last` as a table."""
    first = select(literal(1).label("number")).cte("numbers", recursive=True)
    return first.union_all(select(first.c.number + 1).where(first.c.number < last))


def _copy(
    connection: Connection,
    table: Table,
    changed: Mapping[str, ColumnElement[Any]],
    numbers: CTE,
    which: ColumnElement[bool],
) -> None:
    """Insert one copy of some rows for each number, with other values in some columns."""
    columns = [changed.get(column.name, column) for column in table.columns]
    rows = select(*columns).select_from(table.join(numbers, true())).where(table.c.tenant == _TENANT, which)
    connection.execute(insert(table).from_select([column.name for column in table.columns], rows))


def _text(value: str | ColumnElement[Any]) -> ColumnElement[str]:
    return cast(value, String)
