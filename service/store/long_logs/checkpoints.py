"""Checkpoints: earlier states of users with long logs. A log is replayed from one of them instead of from its start."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from penchant.service.store.statements import AnyRow, insert_or_replace
from penchant.service.store.tables import checkpoints

_NEWEST = (
    select(checkpoints.c.seq, checkpoints.c.state, checkpoints.c.as_of)
    .where(
        checkpoints.c.tenant == bindparam("tenant"),
        checkpoints.c.user_id == bindparam("user"),
        checkpoints.c.bundle_version == bindparam("bundle_version"),
        checkpoints.c.half_life_days.is_not_distinct_from(
            bindparam("half_life_days", type_=checkpoints.c.half_life_days.type)
        ),
        checkpoints.c.seq < bindparam("before"),
    )
    .order_by(checkpoints.c.seq.desc())
    .limit(1)
)


def find_checkpoint(
    connection: Connection,
    tenant: str,
    user: str,
    bundle_version: str,
    half_life_days: float | None,
    *,
    before: int,
) -> AnyRow | None:
    """Return (seq, state, as_of) of a user's newest checkpoint before event `before`, or None if there is none."""
    parameters = {
        "tenant": tenant,
        "user": user,
        "bundle_version": bundle_version,
        "half_life_days": half_life_days,
        "before": before,
    }
    return connection.execute(_NEWEST, parameters).one_or_none()


def put_checkpoints(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert or replace checkpoints."""
    insert_or_replace(connection, checkpoints, rows)


def drop_checkpoints(
    connection: Connection, tenant: str, user: str, bundle_version: str, *, since: int
) -> None:
    """Delete a user's checkpoints under a bundle that cover event `since`."""
    c = checkpoints.c
    connection.execute(
        delete(checkpoints).where(
            c.tenant == tenant, c.user_id == user, c.bundle_version == bundle_version, c.seq >= since
        )
    )
