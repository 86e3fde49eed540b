"""What is asked of the database, one function a question. No statement is written anywhere else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, Delete, Row, Table, and_, bindparam, delete, func, select

from penchant.service.store.inserts import insert, insert_new, insert_or_replace
from penchant.service.store.tables import (
    features,
    feedback_events,
    idempotency,
    installation,
    judged_items,
    rankings,
    user_states,
    users,
)

FLOAT16: Final = np.dtype("<f2")
AnyRow = Row[*tuple[Any, ...]]
CHUNK: Final = 500  # values in one IN list
MAX_SEQ: Final = 2**31 - 1

_KEEPING: Final = (features, rankings, judged_items)  # a row that is there already stays

_JUDGED = (
    select(judged_items.c.seq, judged_items.c.item_key, features.c.vector)
    .outerjoin(
        features,
        and_(
            features.c.tenant == judged_items.c.tenant,
            features.c.extractor == judged_items.c.extractor,
            features.c.feature_key == judged_items.c.feature_key,
        ),
    )
    .order_by(judged_items.c.seq, judged_items.c.position)
)
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


@dataclass(frozen=True, slots=True)
class LoggedJudgement:
    """One event of the log, with all that learning it takes.

    Attributes:
        seq: Place in the user's log.
        event_id: Its name, by which a retraction may take it back.
        type: Kind.
        value: Of a vote or rating.
        weight: In [0, 1]: what the event said.
        groups: Sizes of tie groups, best first.
        target: Event id that a retraction takes back.
        source: Where it comes from.
        received_at: Unix seconds.
        item_keys: m judged texts, winner first.
        vectors: `[m, dim]`, None where the features are not stored.
        discount: In [0, 1]: what a cap, or little trust, left of the weight.
        flags: Why, comma-separated.
    """

    seq: int
    event_id: str
    type: str
    value: float | None
    weight: float
    groups: tuple[int, ...]
    target: str | None
    source: str | None
    received_at: float
    item_keys: tuple[bytes, ...] = ()
    vectors: NDArray[np.float16] | None = None
    discount: float = 1.0
    flags: str | None = None


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
    for ids in _chunks(event_ids):
        for event_id, digest, user in connection.execute(_EVENTS_BY_ID, {"tenant": tenant, "ids": ids}):
            found[event_id] = (digest, user)
    return found


def find_features(
    connection: Connection, tenant: str, extractor: str, keys: Sequence[bytes]
) -> dict[bytes, StoredFeature]:
    """Stored features of these keys."""
    found = {}
    for some in _chunks(keys):
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
    for some in _chunks(keys):
        statement = select(kept.key, kept.request_hash, kept.answer, kept.created_at).where(
            kept.tenant == tenant, kept.key.in_(some)
        )
        found |= {row.key: row for row in connection.execute(statement)}
    return found


def drop_answers(connection: Connection, tenant: str, keys: Sequence[str]) -> None:
    """Removes the stored answers to these keys."""
    for some in _chunks(keys):
        connection.execute(
            delete(idempotency).where(idempotency.c.tenant == tenant, idempotency.c.key.in_(some))
        )


def page_events(connection: Connection, tenant: str, user: str, after: int, limit: int) -> Sequence[AnyRow]:
    """Up to `limit` events of a user with seq > `after`, oldest first."""
    log = feedback_events.c
    return connection.execute(
        select(log.seq, log.event_id, log.payload, log.received_at)
        .where(log.tenant == tenant, log.user_id == user, log.seq > min(after, MAX_SEQ))
        .order_by(log.seq)
        .limit(limit)
    ).all()


def replay_events(
    connection: Connection, tenant: str, user: str, extractor: str, *, since: int = 0, until: int = MAX_SEQ
) -> Iterator[LoggedJudgement]:
    """A user's log in order, seq `since` to `until`, each event with what its texts have for features by `extractor`."""
    log, items = feedback_events.c, judged_items.c
    vectors: dict[int, list[tuple[bytes, bytes | None]]] = {}
    for seq, item_key, vector in connection.execute(
        _JUDGED.where(
            items.tenant == tenant,
            items.user_id == user,
            items.extractor == extractor,
            items.seq.between(since, until),
        )
    ):
        vectors.setdefault(seq, []).append((item_key, vector))
    for row in connection.execute(
        select(
            log.seq,
            log.event_id,
            log.type,
            log.value,
            log.weight,
            log.discount,
            log.groups,
            log.target_event_id,
            log.source,
            log.received_at,
        )
        .where(log.tenant == tenant, log.user_id == user, log.seq.between(since, until))
        .order_by(log.seq)
    ):
        judged = vectors.get(row.seq, [])
        present = [vector for _, vector in judged if vector is not None]
        complete = bool(judged) and len(present) == len(judged)
        yield LoggedJudgement(
            seq=row.seq,
            event_id=row.event_id,
            type=row.type,
            value=row.value,
            weight=row.weight,
            discount=row.discount,
            groups=tuple(orjson.loads(row.groups)) if row.groups else (),
            target=row.target_event_id,
            source=row.source,
            received_at=row.received_at,
            item_keys=tuple(key for key, _ in judged),
            vectors=np.stack([np.frombuffer(vector, FLOAT16) for vector in present]) if complete else None,
        )


def has_retraction(connection: Connection, tenant: str, user: str, since: int) -> bool:
    """Whether a user's log takes anything back from seq `since` on."""
    log = feedback_events.c
    statement = select(log.seq).where(
        log.tenant == tenant, log.user_id == user, log.seq >= since, log.target_event_id.is_not(None)
    )
    return connection.execute(statement.limit(1)).first() is not None


def newest_judgements(connection: Connection, tenant: str, user: str, number: int) -> int:
    """Seq from which on a user's log holds `number` judgements, or all of them where it has fewer."""
    log = feedback_events.c
    statement = (
        select(log.seq)
        .where(log.tenant == tenant, log.user_id == user, log.target_event_id.is_(None))
        .order_by(log.seq.desc())
        .offset(number - 1)
        .limit(1)
    )
    return connection.scalar(statement) or 0


def payloads(connection: Connection, tenant: str, user: str, seqs: Sequence[int]) -> dict[int, str]:
    """Of these events of a user what was sent, JSON, by seq."""
    log = feedback_events.c
    found: dict[int, str] = {}
    for some in _chunks(seqs):
        statement = select(log.seq, log.payload).where(
            log.tenant == tenant, log.user_id == user, log.seq.in_(some)
        )
        found |= {row.seq: row.payload for row in connection.execute(statement)}
    return found


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
    candidates = {(row.extractor, row.feature_key) for row in judged}
    connection.execute(_of_user(judged_items, tenant, user))
    removed = [key for extractor, key in candidates if not _is_needed(connection, tenant, extractor, key)]
    for keys in _chunks(removed):
        connection.execute(
            delete(features).where(features.c.tenant == tenant, features.c.feature_key.in_(keys))
        )
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


def expire(connection: Connection, *, rankings_before: float, answers_before: float) -> int:
    """Removes rankings and stored answers that are too old; returns how many."""
    old_rankings = connection.execute(delete(rankings).where(rankings.c.created_at < rankings_before))
    old_answers = connection.execute(delete(idempotency).where(idempotency.c.created_at < answers_before))
    return old_rankings.rowcount + old_answers.rowcount


def leave_mark(connection: Connection, now: float) -> None:
    """Writes one row, whatever there is to do otherwise: only that shows whether the disk takes any."""
    mark = {"tenant": "", "name": "last_written", "value": str(now).encode()}
    insert_or_replace(connection, installation, [mark])


def _is_needed(connection: Connection, tenant: str, extractor: str, key: bytes) -> bool:
    items = judged_items.c
    statement = select(items.seq).where(
        items.tenant == tenant, items.extractor == extractor, items.feature_key == key
    )
    return connection.execute(statement.limit(1)).first() is not None


def _of_user(table: Table, tenant: str, user: str) -> Delete:
    return delete(table).where(table.c.tenant == tenant, table.c.user_id == user)


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), CHUNK):
        yield listed[start : start + CHUNK]
