"""Everything that the store holds about one user: reading it, giving it to another user, deleting it.

To change something, the caller first takes the users' locks. A change to a log must come with dropping the user's
states and raising the user's version, so that the state is learned again from the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Delete, Table, delete, func, select, update

from penchant.service.store.features import drop_unneeded
from penchant.service.store.statements import AnyRow
from penchant.service.store.tables import (
    feedback_events,
    idempotency,
    judged_items,
    rankings,
    user_states,
    users,
)


@dataclass(frozen=True)
class UserRows:
    """All rows that concern a user.

    Attributes:
        user: Row of `users`. None if the user is unknown.
        events: The user's log, in order.
        items: Judged texts of the log, by feature key and item key.
        states: The user's state under each bundle.
        rankings: Rankings made for the user.
        answers: Stored answers that name the user.
    """

    user: AnyRow | None
    events: Sequence[AnyRow]
    items: Sequence[AnyRow]
    states: Sequence[AnyRow]
    rankings: Sequence[AnyRow]
    answers: Sequence[AnyRow]


def find_user_rows(connection: Connection, tenant: str, user: str, quoted_user: str) -> UserRows:
    """Return all rows that concern a user. `quoted_user` is the user's id as a JSON string."""

    def rows(table: Table, *order: str) -> Sequence[AnyRow]:
        statement = select(table).where(table.c.tenant == tenant, table.c.user_id == user)
        return connection.execute(statement.order_by(*(table.c[name] for name in order))).all()

    return UserRows(
        user=next(iter(rows(users)), None),
        events=rows(feedback_events, "seq"),
        items=rows(judged_items, "seq", "extractor", "position"),
        states=rows(user_states, "bundle_version"),
        rankings=rows(rankings, "created_at"),
        answers=connection.execute(
            select(idempotency).where(idempotency.c.tenant == tenant, _names(quoted_user))
        ).all(),
    )


def move_requests(
    connection: Connection, tenant: str, source: str, into: str, quoted: tuple[str, str]
) -> None:
    """Give the rankings of one user to another, and make stored answers that name the first name both.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of both users.
        source: User who loses the rankings.
        into: User who receives them.
        quoted: Ids of both users as JSON strings, `source` first.
    """
    connection.execute(
        update(rankings).where(rankings.c.tenant == tenant, rankings.c.user_id == source).values(user_id=into)
    )
    # Answers stay, so that a repeated request counts once. Deleting the remaining user deletes them as well.
    connection.execute(
        update(idempotency)
        .where(idempotency.c.tenant == tenant, _names(quoted[0]))
        .values(users=func.replace(idempotency.c.users, quoted[0], f"{quoted[0]},{quoted[1]}"))
    )


def delete_user(
    connection: Connection, tenant: str, user: str, quoted_user: str
) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """Delete everything that the store holds about a user.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of the user.
        user: Id of the user.
        quoted_user: Id of the user as a JSON string, as stored answers contain it.

    Returns:
        Keys of deleted features (those that no other judgement of the tenant needs), keys of all judged items, and the
        `shown` column of the user's rankings.
    """
    items = judged_items.c
    statement = select(items.extractor, items.feature_key, items.prompt_key, items.item_key).where(
        items.tenant == tenant, items.user_id == user
    )
    judged = connection.execute(statement).all()
    connection.execute(_delete_rows(judged_items, tenant, user))
    needed = {(row.extractor, key) for row in judged for key in (row.feature_key, row.prompt_key) if key}
    removed = drop_unneeded(connection, tenant, needed)
    shown = connection.scalars(
        select(rankings.c.shown).where(rankings.c.tenant == tenant, rankings.c.user_id == user)
    ).all()
    for table in (feedback_events, users, user_states, rankings):
        connection.execute(_delete_rows(table, tenant, user))
    connection.execute(delete(idempotency).where(idempotency.c.tenant == tenant, _names(quoted_user)))
    return tuple(removed), tuple({row.item_key for row in judged}), tuple(shown)


def _delete_rows(table: Table, tenant: str, user: str) -> Delete:
    return delete(table).where(table.c.tenant == tenant, table.c.user_id == user)


def _names(quoted_user: str) -> Any:  # noqa: ANN401 — a clause
    """Return the condition that a stored answer names a user."""
    return func.replace(idempotency.c.users, quoted_user, "") != idempotency.c.users
