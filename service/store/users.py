"""Users and their states: where a log stands, and what a bundle made of it so far."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.engine import Connection

from penchant.service.store.statements import CHUNK, AnyRow, insert_or_replace
from penchant.service.store.tables import user_states, users

_SAME_STATE: Final = and_(
    user_states.c.tenant == users.c.tenant,
    user_states.c.user_id == users.c.user_id,
    user_states.c.bundle_version == bindparam("bundle_version"),
    user_states.c.half_life_days.is_not_distinct_from(
        bindparam("half_life_days", type_=users.c.information.type)
    ),
)
_STANDING: Final = (
    select(users, user_states.c.through_seq, user_states.c.state, user_states.c.as_of)
    .outerjoin(user_states, _SAME_STATE)
    .where(users.c.tenant == bindparam("tenant"), users.c.user_id.in_(bindparam("users", expanding=True)))
)
_VERSION: Final = select(users.c.version, users.c.updated_at).where(
    users.c.tenant == bindparam("tenant"), users.c.user_id == bindparam("user")
)
_BEHIND: Final = or_(user_states.c.through_seq.is_(None), user_states.c.through_seq < users.c.last_seq)


def find_standings(
    connection: Connection,
    tenant: str,
    names: Sequence[str],
    bundle_version: str,
    half_life_days: float | None,
) -> dict[str, AnyRow]:
    """By user, for those that are known: the row of `users`, with `through_seq`, `state` and `as_of` of this bundle.

    The last three are null where no state was saved, or one with other forgetting.
    """
    found: dict[str, AnyRow] = {}
    for start in range(0, len(names), CHUNK):
        parameters = {
            "tenant": tenant,
            "users": names[start : start + CHUNK],
            "bundle_version": bundle_version,
            "half_life_days": half_life_days,
        }
        found |= {row.user_id: row for row in connection.execute(_STANDING, parameters)}
    return found


def find_version(connection: Connection, tenant: str, user: str) -> tuple[int, float] | None:
    """(version, updated_at) of a user, None for an unknown one. Cost: one look-up in a primary key."""
    row = connection.execute(_VERSION, {"tenant": tenant, "user": user}).one_or_none()
    return None if row is None else (row.version, row.updated_at)


def put_users(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts or replaces where users stand."""
    insert_or_replace(connection, users, rows)


def put_states(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts or replaces states."""
    insert_or_replace(connection, user_states, rows)


def count_behind(connection: Connection, bundle_version: str, half_life_days: float | None) -> int:
    """How many users have events that this bundle's saved state does not know. Cost: a scan of both keys."""
    return connection.scalar(_behind(func.count()), _of(bundle_version, half_life_days)) or 0


def find_behind(
    connection: Connection,
    bundle_version: str,
    half_life_days: float | None,
    after: tuple[str, str],
    limit: int,
) -> list[tuple[str, str]]:
    """Up to `limit` such users beyond (tenant, user) `after`, in order."""
    tenant, user = after
    beyond = or_(users.c.tenant > tenant, and_(users.c.tenant == tenant, users.c.user_id > user))
    statement = _behind(users.c.tenant, users.c.user_id).where(beyond)
    rows = connection.execute(
        statement.order_by(users.c.tenant, users.c.user_id).limit(limit), _of(bundle_version, half_life_days)
    )
    return [(row.tenant, row.user_id) for row in rows]


def _behind(*columns: ColumnElement[Any]) -> Select[Any]:
    return select(*columns).select_from(users.outerjoin(user_states, _SAME_STATE)).where(_BEHIND)


def _of(bundle_version: str, half_life_days: float | None) -> dict[str, Any]:
    return {"bundle_version": bundle_version, "half_life_days": half_life_days}


def find_users(
    connection: Connection, tenant: str | None, after: tuple[str, str], limit: int
) -> list[tuple[str, str]]:
    """Up to `limit` users beyond (tenant, user) `after`, in order; of one tenant, or of all."""
    c = users.c
    beyond = or_(c.tenant > after[0], and_(c.tenant == after[0], c.user_id > after[1]))
    statement = select(c.tenant, c.user_id).where(beyond).order_by(c.tenant, c.user_id).limit(limit)
    if tenant is not None:
        statement = statement.where(c.tenant == tenant)
    return [(row.tenant, row.user_id) for row in connection.execute(statement)]


def find_user(connection: Connection, tenant: str, user: str) -> AnyRow | None:
    """The row of `users`, None for an unknown user."""
    c = users.c
    return connection.execute(select(users).where(c.tenant == tenant, c.user_id == user)).one_or_none()


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
