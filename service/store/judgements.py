"""Judgements as the user model learns from them: events of the log, with the features of the texts that they judged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, bindparam, select

from penchant.models.encoding.features import TextFeatures, get_embedding, join_vectors, read_vector_bytes
from penchant.models.encoding.match import MATCH_NAMES, convert_match, have_same_definitions
from penchant.service.store.events import HISTORY, MAX_SEQ
from penchant.service.store.features import find_features
from penchant.service.store.statements import AnyRow
from penchant.service.store.tables import features, feedback_events, judged_items

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
