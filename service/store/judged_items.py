"""The texts that events judged, as keys of their features, and their match with the event's prompt."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select, update

from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import judged_items

_ROWS_AT_ONCE: Final = 1000  # rows in memory while a whole tenant is read


def find_judged_items(
    connection: Connection, tenant: str, user: str, extractor: str, seqs: Sequence[int]
) -> dict[int, list[AnyRow]]:
    """Return the rows of the texts that some events of a user judged, by seq, winner first.

    A row has feature_key, item_key, match, match_version and prompt_key. Events without texts under this extractor are
    left out.
    """
    c = judged_items.c
    found: dict[int, list[AnyRow]] = {}
    for some in chunks(seqs):
        statement = (
            select(c.seq, c.feature_key, c.item_key, c.match, c.match_version, c.prompt_key)
            .where(c.tenant == tenant, c.user_id == user, c.extractor == extractor, c.seq.in_(some))
            .order_by(c.seq, c.position)
        )
        for row in connection.execute(statement):
            found.setdefault(row.seq, []).append(row)
    return found


def put_match(
    connection: Connection, tenant: str, user: str, extractor: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Add the match with the prompt to judged texts that are stored without it.

    Args:
        connection: Connection in a write transaction.
        tenant: Tenant of the user.
        user: User who judged the texts.
        extractor: Identity of the extractor of the features.
        rows: Rows of `judged_items`, of which `seq`, `position`, `match`, `match_version` and `prompt_key` are used.
    """
    c = judged_items.c
    statement = (
        update(judged_items)
        .where(
            c.tenant == tenant,
            c.user_id == user,
            c.extractor == extractor,
            c.seq == bindparam("at_seq"),
            c.position == bindparam("at_position"),
        )
        .values(
            match=bindparam("new_match"),
            match_version=bindparam("new_version"),
            prompt_key=bindparam("new_prompt_key"),
        )
    )
    if rows:
        connection.execute(
            statement,
            [
                {
                    "at_seq": row["seq"],
                    "at_position": row["position"],
                    "new_match": row["match"],
                    "new_version": row["match_version"],
                    "new_prompt_key": row["prompt_key"],
                }
                for row in rows
            ],
        )


def iterate_items(
    connection: Connection, tenant: str, extractor: str
) -> Iterator[tuple[str, dict[int, list[AnyRow]]]]:
    """Yield each user of a tenant, sorted by id, with the rows of the judged texts by seq, winner first.

    A row has feature_key, item_key, match, match_version and prompt_key. Users without texts under this extractor are
    left out.
    """
    c = judged_items.c
    statement = (
        select(c.user_id, c.seq, c.feature_key, c.item_key, c.match, c.match_version, c.prompt_key)
        .where(c.tenant == tenant, c.extractor == extractor)
        .order_by(c.user_id, c.seq, c.position)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    for user, rows in groupby(connection.execute(statement), key=lambda row: str(row.user_id)):
        by_seq: dict[int, list[AnyRow]] = {}
        for row in rows:
            by_seq.setdefault(row.seq, []).append(row)
        yield user, by_seq
