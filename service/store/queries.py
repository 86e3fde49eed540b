"""What is asked of the database, one function a question. No statement is written anywhere else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Table, bindparam, delete, select

from penchant.service.store.inserts import insert, insert_new, insert_or_replace
from penchant.service.store.tables import (
    features,
    feedback_events,
    idempotency,
    installation,
    judged_items,
    rankings,
)

FLOAT16: Final = np.dtype("<f2")
AnyRow = Row[*tuple[Any, ...]]
CHUNK: Final = 500  # values in one IN list

_KEEPING: Final = (features, rankings, judged_items)  # a row that is there already stays

_EVENTS_BY_ID = select(
    feedback_events.c.event_id, feedback_events.c.content_hash, feedback_events.c.user_id
).where(
    feedback_events.c.tenant == bindparam("tenant"),
    feedback_events.c.event_id.in_(bindparam("ids", expanding=True)),
)
_FEATURES = select(features.c.feature_key, features.c.vector, features.c.tokens, features.c.truncated).where(
    features.c.tenant == bindparam("tenant"),
    features.c.extractor == bindparam("extractor"),
    features.c.feature_key.in_(bindparam("keys", expanding=True)),
)


@dataclass(frozen=True)
class StoredFeature:
    """One row of `features`.

    Attributes:
        vector: `[dim]`.
        tokens: Tokens read.
        truncated: Whether the text was cut.
    """

    vector: NDArray[np.float16]
    tokens: int
    truncated: bool


def add(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows; for features, rankings and judged items a row that is there already stays.

    Rows should come in the order of a key: on PostgreSQL two transactions that insert the same ones then never wait
    for each other in a circle.
    """
    if table in _KEEPING:
        insert_new(connection, table, rows)
    else:
        insert(connection, table, rows)


def known_events(
    connection: Connection, tenant: str, event_ids: Sequence[str]
) -> dict[str, tuple[bytes, str]]:
    """Of these event ids the ones in the log: id → (content hash, user)."""
    found = {}
    for ids in chunks(event_ids):
        for event_id, digest, user in connection.execute(_EVENTS_BY_ID, {"tenant": tenant, "ids": ids}):
            found[event_id] = (digest, user)
    return found


def find_features(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, StoredFeature]:
    """Stored features of these keys."""
    found = {}
    for some in chunks(keys):
        parameters = {"tenant": tenant, "extractor": extractor, "keys": some}
        for key, vector, tokens, truncated in connection.execute(_FEATURES, parameters):
            found[key] = StoredFeature(np.frombuffer(vector, FLOAT16), tokens, bool(truncated))
    return found


def find_ranking(connection: Connection, tenant: str, rank_id: str) -> AnyRow | None:
    """One ranking: user_id, shown, created_at."""
    return connection.execute(
        select(rankings.c.user_id, rankings.c.shown, rankings.c.created_at).where(
            rankings.c.tenant == tenant, rankings.c.rank_id == rank_id
        )
    ).one_or_none()


def find_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> dict[str, AnyRow]:
    """The stored answers to idempotency keys, by key: request_hash, answer, created_at."""
    kept = idempotency.c
    found: dict[str, AnyRow] = {}
    for some in chunks(keys):
        statement = select(kept.key, kept.request_hash, kept.answer, kept.created_at).where(
            kept.tenant == tenant, kept.key.in_(some)
        )
        found |= {row.key: row for row in connection.execute(statement)}
    return found


def drop_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> None:
    """Removes the stored answers to these keys."""
    for some in chunks(keys):
        connection.execute(
            delete(idempotency).where(idempotency.c.tenant == tenant, idempotency.c.key.in_(some))
        )


def leave_mark(connection: Connection, now: float) -> None:
    """Writes one row, whatever there is to do otherwise: only that shows whether the disk takes any."""
    mark = {"tenant": "", "name": "last_written", "value": str(now).encode()}
    insert_or_replace(connection, installation, [mark])


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Values in lists that one statement takes."""
    listed = list(values)
    for start in range(0, len(listed), CHUNK):
        yield listed[start : start + CHUNK]
