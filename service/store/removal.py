"""What is removed from the store: a user, and what is too old."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, Delete, Table, delete, func, select

from penchant.service.store.queries import CHUNK, AnyRow
from penchant.service.store.tables import (
    features,
    feedback_events,
    idempotency,
    judged_items,
    rankings,
    tenant_usage,
    user_states,
    users,
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
    removed = _drop_unneeded(connection, tenant, {(row.extractor, row.feature_key) for row in judged})
    shown = connection.scalars(
        select(rankings.c.shown).where(rankings.c.tenant == tenant, rankings.c.user_id == user)
    ).all()
    for table in (feedback_events, users, user_states, rankings):
        connection.execute(_of_user(table, tenant, user))
    connection.execute(
        delete(idempotency).where(
            idempotency.c.tenant == tenant,
            func.replace(idempotency.c.users, quoted_user, "") != idempotency.c.users,  # it is in there
        )
    )
    return tuple(removed), tuple({row.item_key for row in judged}), tuple(shown)


def expire(connection: Connection, *, rankings_before: float, answers_before: float, use_before: int) -> int:
    """Removes rankings and stored answers that are too old, and what tenants used before a day; returns how many."""
    old_rankings = connection.execute(delete(rankings).where(rankings.c.created_at < rankings_before))
    old_answers = connection.execute(delete(idempotency).where(idempotency.c.created_at < answers_before))
    old_use = connection.execute(delete(tenant_usage).where(tenant_usage.c.day < use_before))
    return old_rankings.rowcount + old_answers.rowcount + old_use.rowcount


def users_with_older(connection: Connection, tenant: str, before: float, limit: int) -> list[str]:
    """Up to `limit` users with events received before a time. Cost: a range of an index."""
    c = feedback_events.c
    statement = select(c.user_id).where(c.tenant == tenant, c.received_at < before).distinct().limit(limit)
    return list(connection.scalars(statement))


def older_events(connection: Connection, tenant: str, user: str, before: float) -> list[AnyRow]:
    """Events of a user received before a time: seq, target_event_id."""
    c = feedback_events.c
    statement = select(c.seq, c.target_event_id).where(
        c.tenant == tenant, c.user_id == user, c.received_at < before
    )
    return list(connection.execute(statement))


def seqs_of(connection: Connection, tenant: str, user: str, event_ids: Sequence[str]) -> list[AnyRow]:
    """Events of a user by their ids: seq, target_event_id."""
    c = feedback_events.c
    found: list[AnyRow] = []
    for start in range(0, len(event_ids), CHUNK):
        some = event_ids[start : start + CHUNK]
        found += connection.execute(
            select(c.seq, c.target_event_id).where(
                c.tenant == tenant, c.user_id == user, c.event_id.in_(some)
            )
        )
    return found


def drop_events(
    connection: Connection, tenant: str, user: str, seqs: Sequence[int]
) -> tuple[list[bytes], list[bytes]]:
    """Removes events of a user, and the features that no judgement needs any more.

    Returns:
        Keys of the removed features, and of the items that these events had judged.
    """
    items = judged_items.c
    judged: set[tuple[str, bytes]] = set()
    item_keys: set[bytes] = set()
    for start in range(0, len(seqs), CHUNK):
        some = seqs[start : start + CHUNK]
        mine = (items.tenant == tenant, items.user_id == user, items.seq.in_(some))
        for row in connection.execute(
            select(items.extractor, items.feature_key, items.item_key).where(*mine)
        ):
            judged.add((row.extractor, row.feature_key))
            item_keys.add(row.item_key)
        connection.execute(delete(judged_items).where(*mine))
        log = feedback_events.c
        connection.execute(
            delete(feedback_events).where(log.tenant == tenant, log.user_id == user, log.seq.in_(some))
        )
    return _drop_unneeded(connection, tenant, judged), sorted(item_keys)


def _drop_unneeded(connection: Connection, tenant: str, judged: Iterable[tuple[str, bytes]]) -> list[bytes]:
    by_extractor: dict[str, list[bytes]] = {}
    for extractor, key in sorted(judged):
        by_extractor.setdefault(extractor, []).append(key)
    removed: list[bytes] = []
    items, c = judged_items.c, features.c
    for extractor, keys in by_extractor.items():
        for start in range(0, len(keys), CHUNK):
            some = keys[start : start + CHUNK]
            needed = set(
                connection.scalars(
                    select(items.feature_key)
                    .where(items.tenant == tenant, items.extractor == extractor, items.feature_key.in_(some))
                    .distinct()
                )
            )
            gone = [key for key in some if key not in needed]
            if gone:
                connection.execute(
                    delete(features).where(
                        c.tenant == tenant, c.extractor == extractor, c.feature_key.in_(gone)
                    )
                )
            removed += gone
    return removed


def drop_rankings(connection: Connection, tenant: str, rank_ids: Sequence[str]) -> None:
    """Removes rankings by their ids."""
    c = rankings.c
    for start in range(0, len(rank_ids), CHUNK):
        some = rank_ids[start : start + CHUNK]
        connection.execute(delete(rankings).where(c.tenant == tenant, c.rank_id.in_(some)))


def drop_older_rankings(connection: Connection, tenant: str, before: float) -> int:
    """Removes what was shown before a time; returns how many."""
    c = rankings.c
    return connection.execute(delete(rankings).where(c.tenant == tenant, c.created_at < before)).rowcount


def _of_user(table: Table, tenant: str, user: str) -> Delete:
    return delete(table).where(table.c.tenant == tenant, table.c.user_id == user)
