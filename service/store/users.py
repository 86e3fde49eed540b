"""Users: the rows that describe them, the states that bundles learned from their logs, and the locks on both."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, func, or_, select, text, update
from sqlalchemy.engine import Connection

from penchant.service.store.statements import AnyRow, chunks, insert_or_replace
from penchant.service.store.tables import checkpoints, user_states, users

BEING_DELETED: Final = "delete"
"""Value of `users.pending` for a user whose data is being deleted. Such a user counts as unknown."""

_LOCK: Final = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
_LOCK_SHARED: Final = text(
    "SELECT pg_advisory_xact_lock_shared(key) FROM unnest(CAST(:keys AS bigint[])) AS key"
)

_SAME_STATE: Final = and_(
    user_states.c.tenant == users.c.tenant,
    user_states.c.user_id == users.c.user_id,
    user_states.c.bundle_version == bindparam("bundle_version"),
    user_states.c.half_life_days.is_not_distinct_from(
        bindparam("half_life_days", type_=users.c.information.type)
    ),
)
_USERS: Final = (
    select(users, user_states.c.through_seq, user_states.c.state, user_states.c.as_of)
    .outerjoin(user_states, _SAME_STATE)
    .where(users.c.tenant == bindparam("tenant"), users.c.user_id.in_(bindparam("users", expanding=True)))
)
_IS_KNOWN: Final = or_(users.c.pending.is_(None), users.c.pending != BEING_DELETED)
_VERSION: Final = select(users.c.version, users.c.updated_at).where(
    users.c.tenant == bindparam("tenant"), users.c.user_id == bindparam("user"), _IS_KNOWN
)
_VERSIONS: Final = select(users.c.user_id, users.c.version, users.c.updated_at).where(
    users.c.tenant == bindparam("tenant"),
    users.c.user_id.in_(bindparam("users", expanding=True)),
    _IS_KNOWN,
)
_BEHIND: Final = or_(user_states.c.through_seq.is_(None), user_states.c.through_seq < users.c.last_seq)


def lock_users(connection: Connection, names: Iterable[tuple[str, str]]) -> None:
    """Wait until no other transaction changes these (tenant, user)s or their tenants, and lock the users.

    The locks are held until the transaction ends. Queries after this call, in a READ COMMITTED transaction, see the
    newest rows. Call this once per transaction with all users: locks are always taken in the same order, so that
    transactions cannot deadlock. SQLite needs no locks, because it runs one write transaction at a time.

    Raises:
        DBAPIError: If the locks are not free in time.
    """
    if connection.dialect.name != "postgresql":
        return
    distinct = set(names)
    if distinct:
        connection.execute(_LOCK_SHARED, {"keys": _lock_keys((tenant,) for tenant, _ in distinct)})
        connection.execute(_LOCK, {"keys": _lock_keys(distinct)})


def lock_tenant(connection: Connection, tenant: str) -> None:
    """Wait until no other transaction changes any user of a tenant, and lock the tenant until the transaction ends.

    Deletions need this, because they look at the judgements of all users.

    Raises:
        DBAPIError: If the lock is not free in time.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK, {"keys": _lock_keys([(tenant,)])})


def _lock_keys(names: Iterable[tuple[str, ...]]) -> list[int]:
    """Return signed 64-bit hashes, sorted. Two names with the same hash only wait for each other."""
    digests = (
        hashlib.blake2b("\x00".join(name).encode("utf-8", "surrogatepass"), digest_size=8) for name in names
    )
    return sorted({int.from_bytes(digest.digest(), "big", signed=True) for digest in digests})


def find_users(
    connection: Connection,
    tenant: str,
    names: Sequence[str],
    bundle_version: str,
    half_life_days: float | None,
    *,
    with_deleted: bool = False,
) -> dict[str, AnyRow]:
    """Return the `users` rows of known users by id, with `through_seq`, `state` and `as_of` of a bundle's state.

    The last three are null if the bundle has no saved state with this half-life.

    Args:
        connection: Connection to read from.
        tenant: Tenant of the users.
        names: Ids of users.
        bundle_version: Version of the bundle whose states are read.
        half_life_days: Half-life with which the states were learned.
        with_deleted: Whether to return users whose data is being deleted, too.
    """
    rows: dict[str, AnyRow] = {}
    for some in chunks(names):
        parameters = {
            "tenant": tenant,
            "users": some,
            "bundle_version": bundle_version,
            "half_life_days": half_life_days,
        }
        rows |= {
            row.user_id: row
            for row in connection.execute(_USERS, parameters)
            if with_deleted or row.pending != BEING_DELETED
        }
    return rows


def find_version(connection: Connection, tenant: str, user: str) -> tuple[int, float] | None:
    """Return (version, updated_at) of a user, or None if the user is unknown. Cost: one primary key look-up."""
    row = connection.execute(_VERSION, {"tenant": tenant, "user": user}).one_or_none()
    return None if row is None else (row.version, row.updated_at)


def find_versions(connection: Connection, tenant: str, names: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Return (version, updated_at) of known users by id. Cost: one query for each 500 users."""
    versions: dict[str, tuple[int, float]] = {}
    for some in chunks(names):
        for row in connection.execute(_VERSIONS, {"tenant": tenant, "users": some}):
            versions[row.user_id] = (row.version, row.updated_at)
    return versions


def put_users(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert or replace rows of `users`."""
    insert_or_replace(connection, users, rows)


def put_states(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert or replace rows of `user_states`."""
    insert_or_replace(connection, user_states, rows)


def count_behind(connection: Connection, bundle_version: str, half_life_days: float | None) -> int:
    """Return how many users have events that this bundle's saved state lacks. Cost: a scan of both keys."""
    parameters = {"bundle_version": bundle_version, "half_life_days": half_life_days}
    return connection.scalar(_select_behind(func.count()), parameters) or 0


def find_behind(
    connection: Connection,
    bundle_version: str,
    half_life_days: float | None,
    after: tuple[str, str],
    limit: int,
) -> list[tuple[str, str]]:
    """Return up to `limit` (tenant, user)s beyond `after`, sorted, with events that this bundle's state lacks."""
    statement = _select_behind(users.c.tenant, users.c.user_id).where(_beyond(after))
    rows = connection.execute(
        statement.order_by(users.c.tenant, users.c.user_id).limit(limit),
        {"bundle_version": bundle_version, "half_life_days": half_life_days},
    )
    return [(row.tenant, row.user_id) for row in rows]


def _select_behind(*columns: ColumnElement[Any]) -> Select[Any]:
    return select(*columns).select_from(users.outerjoin(user_states, _SAME_STATE)).where(_BEHIND)


def _beyond(after: tuple[str, str]) -> ColumnElement[bool]:
    tenant, user = after
    return or_(users.c.tenant > tenant, and_(users.c.tenant == tenant, users.c.user_id > user))


def list_users(
    connection: Connection, tenant: str | None, after: tuple[str, str], limit: int
) -> list[tuple[str, str]]:
    """Return up to `limit` (tenant, user)s beyond `after`, sorted, of one tenant or of all."""
    c = users.c
    statement = select(c.tenant, c.user_id).where(_beyond(after)).order_by(c.tenant, c.user_id).limit(limit)
    if tenant is not None:
        statement = statement.where(c.tenant == tenant)
    return [(row.tenant, row.user_id) for row in connection.execute(statement)]


def find_user(connection: Connection, tenant: str, user: str) -> AnyRow | None:
    """Return the row of a user, or None if the user is unknown."""
    c = users.c
    return connection.execute(select(users).where(c.tenant == tenant, c.user_id == user)).one_or_none()


def drop_states(connection: Connection, tenant: str, names: Iterable[str]) -> None:
    """Delete the states of these users and their checkpoints, under every bundle."""
    for some in chunks(names):
        for table in (user_states, checkpoints):
            connection.execute(delete(table).where(table.c.tenant == tenant, table.c.user_id.in_(some)))


def drop_user(connection: Connection, tenant: str, user: str) -> None:
    """Delete the row of a user."""
    connection.execute(delete(users).where(users.c.tenant == tenant, users.c.user_id == user))


def put_user(connection: Connection, tenant: str, user: str, values: Mapping[str, Any]) -> None:
    """Insert or replace the row of a user."""
    insert_or_replace(connection, users, [{"tenant": tenant, "user_id": user, **values}])


def update_user(connection: Connection, tenant: str, user: str, values: Mapping[str, Any]) -> None:
    """Change some columns of a user's row."""
    c = users.c
    connection.execute(update(users).where(c.tenant == tenant, c.user_id == user).values(values))
