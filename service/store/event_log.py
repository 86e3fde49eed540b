"""A user's log: read in order, page by page, or for what it says of its last judgements."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, select

from penchant.service.store.queries import FLOAT16, AnyRow, chunks
from penchant.service.store.tables import features, feedback_events, judged_items

MAX_SEQ: Final = 2**31 - 1

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
    for some in chunks(seqs):
        statement = select(log.seq, log.payload).where(
            log.tenant == tenant, log.user_id == user, log.seq.in_(some)
        )
        found |= {row.seq: row.payload for row in connection.execute(statement)}
    return found
