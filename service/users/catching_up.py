"""From what was saved of a user to what the log says now: the one way in which a state comes to be right.

A state says how much of the log it knows (`through_seq`). Whoever needs it reads on from there. Where a retraction
lies beyond, or nothing was saved for this bundle and this forgetting, the log is read from its start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
import orjson
from sqlalchemy import Connection

from penchant.models.encoding.features import Features
from penchant.models.taste.items import item_key
from penchant.service.log.reading import judged_texts
from penchant.service.log.rows import JudgedFeatures
from penchant.service.store import users
from penchant.service.store.events import LoggedJudgement, find_payloads, replay_events
from penchant.service.users.fold import Fold
from penchant.service.users.states import Evidence, UserKey, UserState

_TEXTS_AT_ONCE: Final = 256


class Reader(Protocol):
    """Reads texts again that have no features under an extractor; a `FeatureExtractor` is one."""

    def key(self, text: str, prompt: str = "") -> bytes:
        """Content key of a text's features."""

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Features of texts with their prompts. Slow: not on the event loop."""


@dataclass(frozen=True)
class CaughtUp:
    """A user's state that knows the whole log.

    Attributes:
        state: The state.
        fresh: Features, by seq, that had to be computed for it and are not stored.
        is_saved: Whether the store has this very state.
    """

    state: UserState
    fresh: Mapping[int, JudgedFeatures] = field(default_factory=dict)
    is_saved: bool = True


class LackingFeaturesError(RuntimeError):
    """Texts of a log have no features under the bundle's extractor, and nobody is there to read them again."""


def caught_up(
    connection: Connection, key: UserKey, fold: Fold, reader: Reader | None = None
) -> CaughtUp | None:
    """A user's state, whatever was saved of it; None for an unknown user. Nothing is written.

    Args:
        connection: One consistent view.
        key: The user.
        fold: What a state is.
        reader: Reads texts that have no features yet.

    Raises:
        LackingFeaturesError: There are such texts, and no `reader`.

    Cost: one query where the saved state knows all; otherwise a step of the fold for each event that it does not.
    """
    tenant, user = key
    half_life = fold.forgetting.half_life_days
    row = users.find_users(connection, tenant, [user], fold.bundle_version, half_life).get(user)
    if row is None:
        return None
    state = UserState.from_row(row, fold.start)
    if state.is_current:
        return CaughtUp(state)
    new = _events(connection, key, fold, state.through_seq + 1, state.last_seq)
    evidence = state.evidence
    if state.through_seq > 0 and any(event.target is not None for event in new):
        new = _events(connection, key, fold, 1, state.through_seq) + new
        evidence = fold.start
    complete, fresh = with_features(connection, key, new, fold, reader)
    evidence = fold.extend(evidence, complete)
    return CaughtUp(replace(state, evidence=evidence, through_seq=state.last_seq), fresh, is_saved=False)


def replayed(
    connection: Connection, key: UserKey, fold: Fold, through: int, reader: Reader | None = None
) -> Evidence:
    """What the log up to seq `through` says when it is read from its start, whatever was saved.

    Raises:
        LackingFeaturesError: As `caught_up`.
    """
    events = _events(connection, key, fold, 1, through)
    return fold.replay(with_features(connection, key, events, fold, reader)[0])


def with_features(
    connection: Connection,
    key: UserKey,
    events: Sequence[LoggedJudgement],
    fold: Fold,
    reader: Reader | None,
) -> tuple[list[LoggedJudgement], dict[int, JudgedFeatures]]:
    """The events with features, those included whose texts are read again; and what was computed for that, by seq.

    An event whose texts were not kept can say nothing under a new extractor, and is left out.
    """
    lacking = [event.seq for event in events if event.vectors is None and event.target is None]
    if not lacking:
        return list(events), {}
    if reader is None:
        raise LackingFeaturesError(f"{len(lacking)} events have no features under {fold.extractor}")
    fresh = _read_again(connection, key, lacking, fold.extractor, reader)
    complete = []
    for event in events:
        features = fresh.get(event.seq)
        if features is not None:
            complete.append(replace(event, item_keys=features.item_keys, vectors=features.vectors))
        elif event.vectors is not None or event.target is not None:
            complete.append(event)
    return complete, fresh


def _events(
    connection: Connection, key: UserKey, fold: Fold, since: int, until: int
) -> list[LoggedJudgement]:
    return list(replay_events(connection, *key, fold.extractor, since=since, until=until))


def _read_again(
    connection: Connection, key: UserKey, seqs: Sequence[int], extractor: str, reader: Reader
) -> dict[int, JudgedFeatures]:
    sent = find_payloads(connection, *key, seqs)
    texts = {seq: found for seq in seqs if (found := judged_texts(orjson.loads(sent[seq])))}
    pairs = [pair for found in texts.values() for pair in found]
    if not pairs:
        return {}
    parts = [
        reader.extract([text for _, text in some], [prompt for prompt, _ in some])
        for start in range(0, len(pairs), _TEXTS_AT_ONCE)
        for some in [pairs[start : start + _TEXTS_AT_ONCE]]
    ]
    vectors = np.concatenate([part.vectors for part in parts])
    tokens = np.concatenate([part.tokens for part in parts])
    truncated = np.concatenate([part.truncated for part in parts])
    fresh, place = {}, 0
    for seq, found in texts.items():
        rows = slice(place, place := place + len(found))
        fresh[seq] = JudgedFeatures(
            extractor,
            tuple(reader.key(text, prompt) for prompt, text in found),
            tuple(item_key(prompt, text) for prompt, text in found),
            vectors[rows],
            tokens[rows],
            truncated[rows],
        )
    return fresh
