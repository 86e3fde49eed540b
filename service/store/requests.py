"""Records of past requests, which expire: rankings by `rank_id`, and answers by idempotency key."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import idempotency, rankings


def find_ranking(connection: Connection, tenant: str, rank_id: str) -> AnyRow | None:
    """Return a ranking's row (user_id, shown, created_at), or None if it is unknown."""
    return connection.execute(
        select(rankings.c.user_id, rankings.c.shown, rankings.c.created_at).where(
            rankings.c.tenant == tenant, rankings.c.rank_id == rank_id
        )
    ).one_or_none()


def drop_rankings(connection: Connection, tenant: str, rank_ids: Sequence[str]) -> None:
    """Delete the rankings with these ids."""
    c = rankings.c
    for ids in chunks(rank_ids):
        connection.execute(delete(rankings).where(c.tenant == tenant, c.rank_id.in_(ids)))


def drop_older_rankings(connection: Connection, before: float, tenant: str | None = None) -> int:
    """Delete rankings created before a time, of one tenant or of all, and return their number."""
    statement = delete(rankings).where(rankings.c.created_at < before)
    if tenant is not None:
        statement = statement.where(rankings.c.tenant == tenant)
    return connection.execute(statement).rowcount


def find_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> dict[str, AnyRow]:
    """Return the stored answers (request_hash, answer, created_at) by idempotency key."""
    c = idempotency.c
    answers: dict[str, AnyRow] = {}
    for some in chunks(keys):
        statement = select(c.key, c.request_hash, c.answer, c.created_at).where(
            c.tenant == tenant, c.key.in_(some)
        )
        answers |= {row.key: row for row in connection.execute(statement)}
    return answers


def drop_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> None:
    """Delete the stored answers to these idempotency keys."""
    c = idempotency.c
    for some in chunks(keys):
        connection.execute(delete(idempotency).where(c.tenant == tenant, c.key.in_(some)))


def drop_older_answers(connection: Connection, before: float) -> int:
    """Delete answers created before a time, and return their number."""
    return connection.execute(delete(idempotency).where(idempotency.c.created_at < before)).rowcount
