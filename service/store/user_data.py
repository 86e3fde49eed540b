"""All that is stored of one user: read, handed to another user, removed.

The caller holds the users' locks (`locks`) where it changes something. A change to a user's log goes with dropping the
user's states and raising the version: a state that is needed is then learned again from the log.
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


def find_held(connection: Connection, tenant: str, user: str, quoted_user: str) -> Held:
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


def delete_user(
    connection: Connection, tenant: str, user: str, quoted_user: str
) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """Removes all that is stored of a user.

    Args:
        connection: A write transaction.
        tenant: The user's tenant.
        user: The user.
        quoted_user: The user as a JSON string, as stored answers hold it.

    Returns:
        Keys of removed features (those that no other judgement of the tenant needs), keys of all judged items,
        and what the user's rankings had shown.
    """
    mine = select(judged_items.c.extractor, judged_items.c.feature_key, judged_items.c.item_key).where(
        judged_items.c.tenant == tenant, judged_items.c.user_id == user
    )
    judged = connection.execute(mine).all()
    connection.execute(_of_user(judged_items, tenant, user))
    removed = drop_unneeded(connection, tenant, {(row.extractor, row.feature_key) for row in judged})
    shown = connection.scalars(
        select(rankings.c.shown).where(rankings.c.tenant == tenant, rankings.c.user_id == user)
    ).all()
    for table in (feedback_events, users, user_states, rankings):
        connection.execute(_of_user(table, tenant, user))
    connection.execute(delete(idempotency).where(idempotency.c.tenant == tenant, _names(quoted_user)))
    return tuple(removed), tuple({row.item_key for row in judged}), tuple(shown)


def _of_user(table: Table, tenant: str, user: str) -> Delete:
    return delete(table).where(table.c.tenant == tenant, table.c.user_id == user)


def _names(quoted_user: str) -> Any:  # noqa: ANN401 — a clause
    """Whether a stored answer names a user."""
    return func.replace(idempotency.c.users, quoted_user, "") != idempotency.c.users
