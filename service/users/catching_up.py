"""Bringing a saved state up to the end of the user's log.

A state records how much of the log it covers (`through_seq`), and learning continues from there. The log is read from
its start if a later event is a retraction, or if no state was saved for this bundle and this forgetting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import orjson
from sqlalchemy import Connection

from penchant.models.encoding.features import Features
from penchant.models.taste.items import item_key
from penchant.service.log.reading import get_judged_texts
from penchant.service.log.rows import JudgedFeatures
from penchant.service.store import users
from penchant.service.store.events import LoggedJudgement, find_payloads, replay_events
from penchant.service.users.fold import Fold
from penchant.service.users.states import Evidence, UserKey, UserState

_BATCH_TEXTS: Final = 256


class TextExtractor(Protocol):
    """Computes the features of texts that have none under the bundle's extractor. `FeatureExtractor` is one."""

    def key(self, text: str, prompt: str = "") -> bytes:
        """Return the content key of a text's features."""

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Return the features of texts with their prompts. This is slow and must not run on the event loop."""


@dataclass(frozen=True)
class CatchUpResult:
    """A user's state that covers the whole log.

    Attributes:
        state: The state.
        new_features: Features by seq that had to be computed for it and are not stored.
        is_saved: Whether the store has this very state.
    """

    state: UserState
    new_features: Mapping[int, JudgedFeatures] = field(default_factory=dict)
    is_saved: bool = True


class MissingFeaturesError(RuntimeError):
    """Texts of a log have no features under the bundle's extractor, and there is no encoder to compute them."""


def catch_up(
    connection: Connection, key: UserKey, fold: Fold, extractor: TextExtractor | None = None
) -> CatchUpResult | None:
    """Return a user's state at the end of the log, or None for an unknown user. Nothing is written.

    Args:
        connection: Connection with one consistent view of the store.
        key: The user.
        fold: Fold that computes states.
        extractor: Computes the features of texts that have none, if given.

    Raises:
        MissingFeaturesError: If texts have no features and no `extractor` is given.

    Cost: one query if the saved state is current, otherwise also one step of the fold for each new event.
    """
    tenant, user = key
    half_life = fold.forgetting.half_life_days
    row = users.find_users(connection, tenant, [user], fold.bundle_version, half_life).get(user)
    if row is None:
        return None
    state = UserState.from_row(row, fold.start)
    if state.is_current:
        return CatchUpResult(state)
    events = _read_events(connection, key, fold, state.through_seq + 1, state.last_seq)
    evidence = state.evidence
    if state.through_seq > 0 and any(event.target is not None for event in events):
        events = _read_events(connection, key, fold, 1, state.through_seq) + events
        evidence = fold.start
    complete, new_features = _add_features(connection, key, events, fold, extractor)
    evidence = fold.extend(evidence, complete)
    state = replace(state, evidence=evidence, through_seq=state.last_seq)
    return CatchUpResult(state, new_features, is_saved=False)


def replay_log(
    connection: Connection, key: UserKey, fold: Fold, through: int, extractor: TextExtractor | None = None
) -> Evidence:
    """Return the evidence of a user's log up to seq `through`, read from its start. Saved states are ignored.

    Raises:
        MissingFeaturesError: If texts have no features and no `extractor` is given.
    """
    events = _read_events(connection, key, fold, 1, through)
    return fold.replay(_add_features(connection, key, events, fold, extractor)[0])


def _add_features(
    connection: Connection,
    key: UserKey,
    events: Sequence[LoggedJudgement],
    fold: Fold,
    extractor: TextExtractor | None,
) -> tuple[list[LoggedJudgement], dict[int, JudgedFeatures]]:
    """Return the events with their features, and the features by seq that had to be computed.

    An event whose texts were not kept carries no information under a new extractor, and is left out.
    """
    missing = [event.seq for event in events if event.vectors is None and event.target is None]
    if not missing:
        return list(events), {}
    if extractor is None:
        raise MissingFeaturesError(f"{len(missing)} events have no features under {fold.extractor}")
    computed = _compute_features(connection, key, missing, fold.extractor, extractor)
    complete = []
    for event in events:
        features = computed.get(event.seq)
        if features is not None:
            complete.append(replace(event, item_keys=features.item_keys, vectors=features.vectors))
        elif event.vectors is not None or event.target is not None:
            complete.append(event)
    return complete, computed


def _read_events(
    connection: Connection, key: UserKey, fold: Fold, since: int, until: int
) -> list[LoggedJudgement]:
    return list(replay_events(connection, *key, fold.extractor, since=since, until=until))


def _compute_features(
    connection: Connection, key: UserKey, seqs: Sequence[int], identity: str, extractor: TextExtractor
) -> dict[int, JudgedFeatures]:
    """Return the features by seq of events whose texts were kept; `identity` is that of the extractor."""
    payloads = find_payloads(connection, *key, seqs)
    pairs_by_seq = {seq: pairs for seq in seqs if (pairs := get_judged_texts(orjson.loads(payloads[seq])))}
    all_pairs = [pair for pairs in pairs_by_seq.values() for pair in pairs]
    if not all_pairs:
        return {}
    batches = [all_pairs[start : start + _BATCH_TEXTS] for start in range(0, len(all_pairs), _BATCH_TEXTS)]
    parts = [
        extractor.extract([text for _, text in batch], [prompt for prompt, _ in batch]) for batch in batches
    ]
    computed = Features.join(parts)
    features, start = {}, 0
    for seq, pairs in pairs_by_seq.items():
        rows = slice(start, start := start + len(pairs))
        features[seq] = JudgedFeatures(
            identity,
            tuple(extractor.key(text, prompt) for prompt, text in pairs),
            tuple(item_key(prompt, text) for prompt, text in pairs),
            computed.vectors[rows],
            computed.tokens[rows],
            computed.truncated[rows],
            computed.windows[rows],
        )
    return features
