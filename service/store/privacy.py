"""What is stored of one user: all of it to be read, two users made one, and what is too old removed.

The caller holds the users' locks (`locks`) where it changes something. Whatever is changed here, the users' states are
dropped and their version grows: who needs a state learns it again from the log.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, delete, func, select, update

from penchant.service.store.inserts import insert_or_replace
from penchant.service.store.queries import AnyRow
from penchant.service.store.tables import (
    feedback_events,
    idempotency,
    judged_items,
    rankings,
    user_states,
    users,
)

_MOVED: Final = (feedback_events, judged_items)
"""Tables whose rows have a place in a user's log."""


@dataclass(frozen=True)
class Held:
    """All that is stored of a user, as rows.

    Attributes:
        user: Where the log stands; None of an unknown user.
        events: The log in order.
        items: Which texts they judged, by feature and item key.
        states: What every bundle made of it.
        rankings: What was shown.
        answers: Answers kept under idempotency keys that name the user.
    """

    user: AnyRow | None
    events: Sequence[AnyRow]
    items: Sequence[AnyRow]
    states: Sequence[AnyRow]
    rankings: Sequence[AnyRow]
    answers: Sequence[AnyRow]


def held(connection: Connection, tenant: str, user: str, quoted_user: str) -> Held:
    """Reads all that is stored of a user; `quoted_user` is the user as a JSON string."""

    def rows(table: Table, *order: str) -> Sequence[AnyRow]:
        mine = select(table).where(table.c.tenant == tenant, table.c.user_id == user)
        return connection.execute(mine.order_by(*(table.c[name] for name in order))).all()

    found = rows(users)
    return Held(
        user=found[0] if found else None,
        events=rows(feedback_events, "seq"),
        items=rows(judged_items, "seq", "extractor", "position"),
        states=rows(user_states, "bundle_version"),
        rankings=rows(rankings, "created_at"),
        answers=connection.execute(
            select(idempotency).where(idempotency.c.tenant == tenant, _names(quoted_user))
        ).all(),
    )


def find_user(connection: Connection, tenant: str, user: str) -> AnyRow | None:
    """The row of `users`, None for an unknown user."""
    c = users.c
    return connection.execute(select(users).where(c.tenant == tenant, c.user_id == user)).one_or_none()


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


def move_rest(connection: Connection, tenant: str, source: str, into: str, quoted: tuple[str, str]) -> None:
    """Gives the rankings of one user to another, and has stored answers that name one name both.

    Args:
        connection: A write transaction.
        tenant: Of both.
        source: Who is no more.
        into: Who is.
        quoted: Both as JSON strings.
    """
    connection.execute(
        update(rankings).where(rankings.c.tenant == tenant, rankings.c.user_id == source).values(user_id=into)
    )
    # Answers stay, so that a request that is sent again counts once; whoever deletes the one user deletes them too.
    connection.execute(
        update(idempotency)
        .where(idempotency.c.tenant == tenant, _names(quoted[0]))
        .values(users=func.replace(idempotency.c.users, quoted[0], f"{quoted[0]},{quoted[1]}"))
    )


def drop_states(connection: Connection, tenant: str, names: Iterable[str]) -> None:
    """Removes what bundles made of these users' logs."""
    c = user_states.c
    connection.execute(delete(user_states).where(c.tenant == tenant, c.user_id.in_(list(names))))


def drop_user(connection: Connection, tenant: str, user: str) -> None:
    """Removes the row that says that there is such a user."""
    connection.execute(delete(users).where(users.c.tenant == tenant, users.c.user_id == user))


def put_user(connection: Connection, tenant: str, user: str, values: Mapping[str, Any]) -> None:
    """Inserts or replaces a row of `users`."""
    insert_or_replace(connection, users, [{"tenant": tenant, "user_id": user, **values}])


def set_user(connection: Connection, tenant: str, user: str, values: Mapping[str, Any]) -> None:
    """Changes columns of `users`."""
    c = users.c
    connection.execute(update(users).where(c.tenant == tenant, c.user_id == user).values(values))


def _names(quoted_user: str) -> Any:  # noqa: ANN401 — a clause
    """Whether a stored answer names a user."""
    return func.replace(idempotency.c.users, quoted_user, "") != idempotency.c.users
