"""The feedback log: each user's events in order of arrival, the texts that they judged, and those texts' features."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, bindparam, delete, exists, func, select

from penchant.models.encoding.features import TextFeatures, get_embedding, join_vectors, read_vector_bytes
from penchant.models.encoding.match import MATCH_NAMES, convert_match, have_same_definitions
from penchant.service.store.features import drop_unneeded, find_features
from penchant.service.store.statements import AnyRow, chunks
from penchant.service.store.tables import features, feedback_events, judged_items, users

MAX_SEQ: Final = 2**31 - 1
HISTORY: Final = "history"
"""First flag of an event of the past, whose information counts for its own day."""

_ROWS_AT_ONCE: Final = 1000  # rows in memory while a whole tenant is read
_PAYLOADS_AT_ONCE: Final = 8  # a payload may have megabytes

_EVENTS_AT_ONCE: Final = 256  # events of a replay in memory, with the features of their texts

_LOGGED: Final = (
    select(
        feedback_events.c.seq,
        feedback_events.c.event_id,
        feedback_events.c.type,
        feedback_events.c.value,
        feedback_events.c.weight,
        feedback_events.c.discount,
        feedback_events.c.groups,
        feedback_events.c.target_event_id,
        feedback_events.c.source,
        feedback_events.c.received_at,
        feedback_events.c.happened_at,
        feedback_events.c.flags,
        feedback_events.c.replaced,
    )
    .where(
        feedback_events.c.tenant == bindparam("tenant"),
        feedback_events.c.user_id == bindparam("user"),
        feedback_events.c.seq.between(bindparam("since"), bindparam("until")),
    )
    .order_by(feedback_events.c.seq)
    .limit(bindparam("limit"))
)
_JUDGED: Final = (
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
    .where(
        judged_items.c.tenant == bindparam("tenant"),
        judged_items.c.user_id == bindparam("user"),
        judged_items.c.extractor == bindparam("extractor"),
        judged_items.c.seq.between(bindparam("since"), bindparam("until")),
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

    Cost: two queries for every `_EVENTS_AT_ONCE` events, which are in memory together; about 25 µs for a pair in SQLite.
    """
    parameters: dict[str, str | int] = {
        "tenant": tenant,
        "user": user,
        "extractor": extractor,
        "limit": _EVENTS_AT_ONCE,
    }
    while since <= until:
        rows = connection.execute(_LOGGED, parameters | {"since": since, "until": until}).all()
        if not rows:
            return
        first, last = rows[0].seq, rows[-1].seq
        texts = connection.execute(_JUDGED, parameters | {"since": first, "until": last}).all()
        judged = _JudgedTexts(texts, match_version)
        if reads_prompt_embedding:
            judged.add_prompts(find_features(connection, tenant, extractor, judged.prompt_keys))
        vectors = judged.join()
        for (
            seq,
            event_id,
            kind,
            value,
            weight,
            discount,
            groups,
            target,
            source,
            received_at,
            happened_at,
            flags,
            replaced,
        ) in rows:
            start, end = judged.places.get(seq, (0, 0))
            yield LoggedJudgement(
                seq,
                event_id,
                kind,
                value,
                weight,
                tuple(orjson.loads(groups)) if groups else (),
                target,
                source,
                received_at,
                received_at if happened_at is None else happened_at,
                item_keys=judged.item_keys[start:end],
                vectors=vectors[start:end] if start < end and all(judged.is_stored[start:end]) else None,
                discount=discount,
                flags=flags,
                is_replaced=bool(replaced),
                is_matched=all(judged.is_matched[start:end]),
            )
        since = last + 1 if len(rows) == _EVENTS_AT_ONCE else until + 1


class _JudgedTexts:
    """The judged texts of some events, whose features are unpacked together.

    Args:
        rows: Rows of `_JUDGED`.
        match_version: Version of the match features. Empty for none.

    Attributes:
        places: Start and end of each event's texts, by seq.
        item_keys: Key of each text.
        is_stored: Whether the features of each text are stored.
        is_matched: Whether the match features of each text are known.
    """

    def __init__(self, rows: Sequence[AnyRow], match_version: str) -> None:
        seqs, item_keys, matches, versions, prompt_keys, contents = (
            zip(*rows, strict=True) if rows else ((),) * 6
        )
        self.item_keys: tuple[bytes, ...] = item_keys
        self._prompt_keys: tuple[bytes | None, ...] = prompt_keys
        self.places: dict[int, tuple[int, int]] = {}
        for place, seq in enumerate(seqs):
            self.places[seq] = (self.places.get(seq, (place, 0))[0], place + 1)
        vectors = [None if content is None else read_vector_bytes(content) for content in contents]
        self.is_stored = [vector is not None for vector in vectors]
        self._vectors = _unpack_rows(vectors)
        known = {version: have_same_definitions(version or "", match_version) for version in set(versions)}
        self.is_matched = [not match_version or known[version] for version in versions]
        self._match = np.full((len(rows), len(MATCH_NAMES) if match_version else 0), np.nan, np.float16)
        for version in [version for version, is_known in known.items() if is_known and match_version]:
            own = [place for place, one in enumerate(versions) if one == version]
            stored = _unpack_rows([matches[place] for place in own])
            self._match[own] = convert_match(stored, version, match_version)
        self._prompts: NDArray[np.float16] | None = None

    @property
    def prompt_keys(self) -> list[bytes]:
        """Keys of the prompts' features, without repetitions."""
        return list(dict.fromkeys(key for key in self._prompt_keys if key))

    def add_prompts(self, found: Mapping[bytes, TextFeatures]) -> None:
        """Add the embeddings of prompts. Those that were not found are NaN."""
        unknown = np.full(self._vectors.shape[1], np.nan, np.float16)
        embeddings = {key: get_embedding(prompt.vector)[0] for key, prompt in found.items()}
        own = [embeddings.get(key or b"", get_embedding(unknown)[0]) for key in self._prompt_keys]
        self._prompts = np.array(own, np.float16).reshape(len(own), -1)

    def join(self) -> NDArray[np.float16]:
        """Return the raw vectors of the texts as a reward model reads them. Those of texts that are not stored are 0."""
        return join_vectors(self._vectors, self._match, self._prompts)


def _unpack_rows(contents: Sequence[bytes | None]) -> NDArray[np.float16]:
    """Return float16 vectors of one width as the rows of an array. A vector that is None is 0.

    Raises:
        ValueError: If their widths differ.
    """
    sizes = {len(content) for content in contents if content is not None}
    if len(sizes) > 1:
        raise ValueError(f"stored vectors of one kind have {sorted(sizes)} bytes")
    empty = bytes(sizes.pop() if sizes else 0)
    joined = b"".join([empty if content is None else content for content in contents])
    return np.frombuffer(joined, "<f2").reshape(len(contents), -1 if joined else 0)
