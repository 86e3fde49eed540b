"""Everything that the store holds about one user: reading it, giving it to another user, deleting it.

To change something, the caller first takes the users' locks. A change to a log must come with dropping the user's
states and raising the user's version, so that the state is learned again from the log.
"""

from sqlalchemy import ColumnElement, Connection, Delete, Table, and_, delete, select, update

from penchant.service.store.features import drop_unneeded
from penchant.service.store.statements import insert_new
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


def move_requests(connection: Connection, tenant: str, source: str, into: str) -> None:
    """Give the rankings of one user to another, and make stored answers that name the first name both.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of both users.
        source: User who loses the rankings.
        into: User who receives them.
    """
    connection.execute(
        update(rankings).where(rankings.c.tenant == tenant, rankings.c.user_id == source).values(user_id=into)
    )
    # Answers stay, so that a repeated request counts once. Deleting the remaining user deletes them as well.
    c = answered_users.c
    keys = connection.scalars(select(c.key).where(c.tenant == tenant, c.user_id == source))
    insert_new(connection, answered_users, [{"tenant": tenant, "user_id": into, "key": key} for key in keys])


def delete_user(
    connection: Connection, tenant: str, user: str
) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """Delete everything that the store holds about a user.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of the user.
        user: Id of the user.

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
    for table in (feedback_events, users, user_states, checkpoints, rankings):
        connection.execute(_delete_rows(table, tenant, user))
    connection.execute(delete(idempotency).where(_names(tenant, user)))
    return tuple(removed), tuple({row.item_key for row in judged}), tuple(shown)


def _delete_rows(table: Table, tenant: str, user: str) -> Delete:
    return delete(table).where(table.c.tenant == tenant, table.c.user_id == user)


def _names(tenant: str, user: str) -> ColumnElement[bool]:
    """Return the condition that a stored answer names a user."""
    c = answered_users.c
    keys = select(c.key).where(c.tenant == tenant, c.user_id == user)
    return and_(idempotency.c.tenant == tenant, idempotency.c.key.in_(keys))
