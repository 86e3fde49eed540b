"""The feedback log read as a whole: by those who learn a new bundle from it, and those who take it elsewhere."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, func, or_, select

from penchant.service.store.queries import CHUNK, FLOAT16, AnyRow
from penchant.service.store.tables import features, feedback_events, judged_items, users

_ROWS: Final = 1000
"""Rows in memory at once."""


def tenants_with_feedback(connection: Connection) -> dict[str, int]:
    """Tenants that have a log, each with its number of events. Cost: a scan of the log's key."""
    log = feedback_events.c
    rows = connection.execute(
        select(log.tenant, func.count().label("events")).group_by(log.tenant).order_by(log.tenant)
    )
    return {row.tenant: row.events for row in rows}


def user_logs(connection: Connection, tenant: str) -> Iterator[tuple[str, list[AnyRow]]]:
    """Every user's log of a tenant, each in order, users in the order of their names; one user in memory at a time."""
    log = feedback_events.c
    statement = (
        select(
            log.user_id,
            log.seq,
            log.event_id,
            log.type,
            log.value,
            log.weight,
            log.discount,
            log.groups,
            log.target_event_id.label("target"),
            log.source,
            log.payload,
        )
        .where(log.tenant == tenant)
        .order_by(log.user_id, log.seq)
        .execution_options(yield_per=_ROWS)
    )
    for user, rows in groupby(connection.execute(statement), key=lambda row: str(row.user_id)):
        yield user, list(rows)


def user_items(
    connection: Connection, tenant: str, extractor: str
) -> Iterator[tuple[str, dict[int, list[tuple[bytes, bytes]]]]]:
    """What every user judged, as one extractor sees it: by seq (feature key, item key), winner first.

    Users in the order of their names, those without any left out.
    """
    items = judged_items.c
    statement = (
        select(items.user_id, items.seq, items.feature_key, items.item_key)
        .where(items.tenant == tenant, items.extractor == extractor)
        .order_by(items.user_id, items.seq, items.position)
        .execution_options(yield_per=_ROWS)
    )
    for user, rows in groupby(connection.execute(statement), key=lambda row: str(row.user_id)):
        found: dict[int, list[tuple[bytes, bytes]]] = {}
        for row in rows:
            found.setdefault(row.seq, []).append((row.feature_key, row.item_key))
        yield user, found


def vectors_of(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, NDArray[np.float16]]:
    """Stored features of these keys, `[dim]` each."""
    found: dict[bytes, NDArray[np.float16]] = {}
    for start in range(0, len(keys), CHUNK):
        some = keys[start : start + CHUNK]
        statement = select(features.c.feature_key, features.c.vector).where(
            features.c.tenant == tenant, features.c.extractor == extractor, features.c.feature_key.in_(some)
        )
        found |= {key: np.frombuffer(vector, FLOAT16) for key, vector in connection.execute(statement)}
    return found


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
