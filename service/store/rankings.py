"""What was shown, by the id of the ranking."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from penchant.service.store.statements import CHUNK, AnyRow
from penchant.service.store.tables import rankings


def find_ranking(connection: Connection, tenant: str, rank_id: str) -> AnyRow | None:
    """One ranking: user_id, shown, created_at."""
    return connection.execute(
        select(rankings.c.user_id, rankings.c.shown, rankings.c.created_at).where(
            rankings.c.tenant == tenant, rankings.c.rank_id == rank_id
        )
    ).one_or_none()


def drop_rankings(connection: Connection, tenant: str, rank_ids: Sequence[str]) -> None:
    """Removes rankings by their ids."""
    c = rankings.c
    for start in range(0, len(rank_ids), CHUNK):
        some = rank_ids[start : start + CHUNK]
        connection.execute(delete(rankings).where(c.tenant == tenant, c.rank_id.in_(some)))


def drop_older_rankings(connection: Connection, before: float, tenant: str | None = None) -> int:
    """Removes what was shown before a time, to one tenant's users or to all; returns how many."""
    statement = delete(rankings).where(rankings.c.created_at < before)
    if tenant is not None:
        statement = statement.where(rankings.c.tenant == tenant)
    return connection.execute(statement).rowcount
