"""Events with the texts that they judged and the features of those: what is learned from."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, select

from penchant.service.store.events import MAX_SEQ, ROWS_AT_ONCE
from penchant.service.store.features import FLOAT16
from penchant.service.store.tables import features, feedback_events, judged_items

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
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    for user, rows in groupby(connection.execute(statement), key=lambda row: str(row.user_id)):
        found: dict[int, list[tuple[bytes, bytes]]] = {}
        for row in rows:
            found.setdefault(row.seq, []).append((row.feature_key, row.item_key))
        yield user, found
