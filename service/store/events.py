"""The feedback log: each user's events in order of arrival, the texts that they judged, and those texts' features."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, delete, exists, func, select

from penchant.models.encoding.features import get_embedding, join_vectors, unpack_features, unpack_match
from penchant.models.encoding.match import MATCH_NAMES, convert_match, have_same_definitions
from penchant.service.store.features import drop_unneeded, find_features
from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import features, feedback_events, judged_items, users

MAX_SEQ: Final = 2**31 - 1
HISTORY: Final = "history"
"""First flag of an event of the past, whose information counts for its own day."""

_ROWS_AT_ONCE: Final = 1000  # rows in memory while a whole tenant is read
_PAYLOADS_AT_ONCE: Final = 8  # a payload may have megabytes

_JUDGED = (
    select(
        judged_items.c.seq,
        judged_items.c.item_key,
        judged_items.c.match,
        judged_items.c.match_version,
        judged_items.c.prompt_key,
        features.c.vector,
    )
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
    """An event of the log, a judgement or a retraction, with everything that the user model learns from.

    Attributes:
        seq: Place in the user's log.
        event_id: Id that a retraction names.
        type: Kind of event.
        value: Value of a vote or rating. None for all other kinds.
        weight: Weight of the event itself, in [0, 1].
        groups: Sizes of tie groups, best first.
        target: Id of the event that a retraction withdraws. None for a judgement.
        source: Source that the event names.
        received_at: Time of arrival in Unix seconds.
        happened_at: Time that its age counts from: its own timestamp if it has one, but never after its arrival.
        item_keys: Keys of the m judged texts, winner first.
        vectors: Raw vectors of the judged texts, as the reward model reads them: `[m, dim]`, or `[m, width]` with their
            match for a model that reads prompts. None if they are not stored.
        discount: Factor in [0, 1] by which a cap or low trust reduced the weight.
        flags: Comma-separated reasons for the discount, after "history" for an event of the past that is no burst.
        is_replaced: Whether a later event has its id, or that of an event which it retracted. It is not in force then.
        is_matched: Whether the vectors hold all match features that the model reads. Otherwise they are NaN.
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
    happened_at: float
    item_keys: tuple[bytes, ...] = ()
    vectors: NDArray[np.float16] | None = None
    discount: float = 1.0
    flags: str | None = None
    is_replaced: bool = False
    is_matched: bool = True

    @property
    def is_history(self) -> bool:
        """Whether it is an event of the past, which is no burst."""
        return self.flags is not None and self.flags.startswith(HISTORY)


def has_retraction(connection: Connection, tenant: str, user: str, since: int) -> bool:
    """Return whether a user's log holds a retraction at seq `since` or later."""
    log = feedback_events.c
    statement = select(log.seq).where(
        log.tenant == tenant, log.user_id == user, log.seq >= since, log.target_event_id.is_not(None)
    )
    return connection.execute(statement.limit(1)).first() is not None


def find_first_seq(connection: Connection, tenant: str, user: str, since: int) -> int | None:
    """Return the place of a user's first event at seq `since` or later, or None if there is none."""
    log = feedback_events.c
    statement = select(log.seq).where(log.tenant == tenant, log.user_id == user, log.seq >= since)
    return connection.scalar(statement.order_by(log.seq).limit(1))


def find_retractions(connection: Connection, tenant: str, user: str) -> Sequence[AnyRow]:
    """Return (seq, event_id, target_event_id, replaced) of a user's retractions, in order. Cost: a scan of the log."""
    log = feedback_events.c
    statement = select(log.seq, log.event_id, log.target_event_id, log.replaced).where(
        log.tenant == tenant, log.user_id == user, log.target_event_id.is_not(None)
    )
    return connection.execute(statement.order_by(log.seq)).all()


def find_named_events(
    connection: Connection, tenant: str, user: str, event_ids: Iterable[str]
) -> list[AnyRow]:
    """Return (seq, event_id, replaced) of a user's events with these ids, of which several may have the same.

    Cost: a scan of the user's log for every few hundred ids.
    """
    log = feedback_events.c
    rows: list[AnyRow] = []
    for some in chunks(event_ids):
        statement = select(log.seq, log.event_id, log.replaced).where(
            log.tenant == tenant, log.user_id == user, log.event_id.in_(some)
        )
        rows += connection.execute(statement)
    return rows


def find_start_of_newest(connection: Connection, tenant: str, user: str, number: int) -> int:
    """Return the seq of a user's `number`th newest judgement, or 0 if the log has fewer judgements."""
    log = feedback_events.c
    statement = (
        select(log.seq)
        .where(log.tenant == tenant, log.user_id == user, log.target_event_id.is_(None))
        .order_by(log.seq.desc())
        .offset(number - 1)
        .limit(1)
    )
    return connection.scalar(statement) or 0


def find_payloads(connection: Connection, tenant: str, user: str, seqs: Sequence[int]) -> dict[int, str]:
    """Return the JSON payloads of some events of a user, by seq."""
    log = feedback_events.c
    payloads: dict[int, str] = {}
    for some in chunks(seqs):
        statement = select(log.seq, log.payload).where(
            log.tenant == tenant, log.user_id == user, log.seq.in_(some)
        )
        payloads |= {row.seq: row.payload for row in connection.execute(statement)}
    return payloads


def iterate_payloads(
    connection: Connection, tenant: str, user: str, seqs: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yield (seq, payload) of some events of a user, in the given order. Few payloads are in memory at a time."""
    for start in range(0, len(seqs), _PAYLOADS_AT_ONCE):
        some = seqs[start : start + _PAYLOADS_AT_ONCE]
        payloads = find_payloads(connection, tenant, user, some)
        yield from ((seq, payloads[seq]) for seq in some)


def count_events(connection: Connection) -> dict[str, int]:
    """Return the number of events of each tenant that has any. Cost: a scan of the log's key."""
    log = feedback_events.c
    rows = connection.execute(
        select(log.tenant, func.count().label("events")).group_by(log.tenant).order_by(log.tenant)
    )
    return {row.tenant: row.events for row in rows}


def iterate_logs(connection: Connection, tenant: str) -> Iterator[tuple[str, list[AnyRow]]]:
    """Yield each user of a tenant, sorted by id, with the user's log in order but without payloads.

    One log is in memory at a time. Payloads, which may be long, are read by `iterate_payloads`.
    """
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
            log.replaced.label("is_replaced"),
        )
        .where(log.tenant == tenant)
        .order_by(log.user_id, log.seq)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    for user, rows in groupby(connection.execute(statement), key=lambda row: str(row.user_id)):
        yield user, list(rows)


def find_users_with_older(connection: Connection, tenant: str, before: float, limit: int) -> list[str]:
    """Return up to `limit` users with events received before a time, unless a change of the user is under way.

    Cost: a range scan of an index.
    """
    c = feedback_events.c
    is_changing = exists().where(
        users.c.tenant == tenant, users.c.user_id == c.user_id, users.c.pending.is_not(None)
    )
    statement = select(c.user_id).where(c.tenant == tenant, c.received_at < before, ~is_changing)
    return list(connection.scalars(statement.distinct().limit(limit)))


def find_older_events(
    connection: Connection, tenant: str, user: str, before: float, limit: int
) -> Sequence[AnyRow]:
    """Return some of a user's events that were received before a time, oldest first.

    Each is (seq, target_event_id, replaced). There are at most `limit` of them.
    """
    c = feedback_events.c
    statement = select(c.seq, c.target_event_id, c.replaced).where(
        c.tenant == tenant, c.user_id == user, c.received_at < before
    )
    return connection.execute(statement.order_by(c.received_at, c.seq).limit(limit)).all()


def drop_events(
    connection: Connection, tenant: str, user: str, seqs: Sequence[int]
) -> tuple[list[bytes], list[bytes]]:
    """Delete events of a user, and the features that no other judgement needs.

    Returns:
        Keys of the deleted features, and keys of the items that the events had judged.
    """
    items = judged_items.c
    judged: set[tuple[str, bytes]] = set()
    item_keys: set[bytes] = set()
    for some in chunks(seqs):
        selected = (items.tenant == tenant, items.user_id == user, items.seq.in_(some))
        for row in connection.execute(
            select(items.extractor, items.feature_key, items.prompt_key, items.item_key).where(*selected)
        ):
            judged.update((row.extractor, key) for key in (row.feature_key, row.prompt_key) if key)
            item_keys.add(row.item_key)
        connection.execute(delete(judged_items).where(*selected))
        log = feedback_events.c
        connection.execute(
            delete(feedback_events).where(log.tenant == tenant, log.user_id == user, log.seq.in_(some))
        )
    return drop_unneeded(connection, tenant, judged), sorted(item_keys)


def replay_events(
    connection: Connection,
    tenant: str,
    user: str,
    extractor: str,
    match_version: str,
    *,
    reads_prompt_embedding: bool = False,
    since: int = 0,
    until: int = MAX_SEQ,
) -> Iterator[LoggedJudgement]:
    """Yield a user's events with seq `since` to `until`, in order, each with its texts' features.

    Args:
        connection: Connection to read from.
        tenant: Tenant of the user.
        user: Id of the user.
        extractor: Identity of the extractor of the features.
        match_version: Version of the match features, which are read as well. Empty for none.
        reads_prompt_embedding: Whether vectors also hold the embedding of the prompt, NaN if it is not stored.
        since: First seq.
        until: Last seq.
    """
    log, items = feedback_events.c, judged_items.c
    judged: dict[int, list[AnyRow]] = {}
    for text in connection.execute(
        _JUDGED.where(
            items.tenant == tenant,
            items.user_id == user,
            items.extractor == extractor,
            items.seq.between(since, until),
        )
    ):
        judged.setdefault(text.seq, []).append(text)
    prompts: dict[bytes, NDArray[np.float16]] | None = None
    if reads_prompt_embedding:
        keys = dict.fromkeys(
            text.prompt_key for texts in judged.values() for text in texts if text.prompt_key
        )
        found = find_features(connection, tenant, extractor, list(keys))
        prompts = {key: prompt.vector for key, prompt in found.items()}
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
            log.happened_at,
            log.flags,
            log.replaced,
        )
        .where(log.tenant == tenant, log.user_id == user, log.seq.between(since, until))
        .order_by(log.seq)
    ):
        texts = judged.get(row.seq, [])
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
            happened_at=row.received_at if row.happened_at is None else row.happened_at,
            flags=row.flags,
            is_replaced=bool(row.replaced),
            item_keys=tuple(text.item_key for text in texts),
            vectors=_read_vectors(texts, match_version, prompts),
            is_matched=not match_version
            or all(have_same_definitions(text.match_version or "", match_version) for text in texts),
        )


def _read_vectors(
    texts: Sequence[AnyRow], match_version: str, prompts: Mapping[bytes, NDArray[np.float16]] | None
) -> NDArray[np.float16] | None:
    """Return the raw vectors of an event's texts. None if the features of one are not stored.

    Args:
        texts: Rows of the texts.
        match_version: Version of the match features. Empty for none.
        prompts: Feature vectors of prompts, by key, if vectors hold the embedding of the prompt.
    """
    if not texts or any(text.vector is None for text in texts):
        return None
    match = np.full((len(texts), len(MATCH_NAMES) if match_version else 0), np.nan, np.float16)
    for row, text in enumerate(texts):
        if match_version and have_same_definitions(text.match_version or "", match_version):
            match[row] = convert_match(unpack_match(text.match), text.match_version, match_version)
    vectors = np.stack([unpack_features(text.vector)[0] for text in texts])
    if prompts is None:
        return join_vectors(vectors, match)
    unknown = np.full(vectors.shape[1], np.nan, np.float16)
    found = [get_embedding(prompts.get(text.prompt_key, unknown)) for text in texts]
    return join_vectors(vectors, match, np.concatenate(found))
