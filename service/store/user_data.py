"""Everything that the store holds about one user."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, select

from penchant.service.store.statements import AnyRow
from penchant.service.store.tables import (
    answered_users,
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


def find_user_rows(connection: Connection, tenant: str, user: str) -> UserRows:
    """Return all rows that concern a user."""

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
            select(idempotency).where(_names(tenant, user)).order_by(idempotency.c.key)
        ).all(),
    )


def _names(tenant: str, user: str) -> ColumnElement[bool]:
    """Return the condition that a stored answer names a user."""
    c = answered_users.c
    keys = select(c.key).where(c.tenant == tenant, c.user_id == user)
    return and_(idempotency.c.tenant == tenant, idempotency.c.key.in_(keys))
