"""Completing logged events for a bundle: features and match features that it reads and the store lacks.

An event may have been logged under another encoder, or under a bundle that does not read prompts. What its texts and
prompt allow is computed. What they do not allow is counted, so that an upgrade can report it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection

from penchant.models.encoding.features import Features, TextFeatures, get_embedding, unpack_match
from penchant.models.encoding.match import (
    BRIEF,
    COSINE,
    MATCH_NAMES,
    compute_cosine,
    compute_match,
    convert_match,
    have_same_definitions,
)
from penchant.models.taste.items import item_key
from penchant.service.log.reading import get_judged_texts, hash_context
from penchant.service.log.rows import JudgedFeatures
from penchant.service.store.events import find_payloads
from penchant.service.store.features import find_features
from penchant.service.store.judged_items import find_judged_items
from penchant.service.store.judgements import LoggedJudgement
from penchant.service.store.statements import AnyRow
from penchant.service.users.fold import Fold
from penchant.service.users.states import UserKey

_BATCH_TEXTS: Final = 256
_BLANK_CONTEXT: Final = hash_context({})


class TextExtractor(Protocol):
    """Computes the features of texts that have none under the bundle's extractor. `FeatureExtractor` is one."""

    @property
    def window_identity(self) -> str:
        """Identity of the features by the same encoder when it reads a single window of each text."""

    def key(self, text: str, prompt: str = "") -> bytes:
        """Return the content key of a text's features."""

    def extract(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Features:
        """Return the features of texts with their prompts. This is slow and must not run on the event loop."""


class MissingFeaturesError(RuntimeError):
    """Texts of a log have no features under the bundle's extractor, and there is no encoder to compute them."""


@dataclass(frozen=True)
class Shortfall:
    """Numbers of events that a bundle cannot use in full.

    Attributes:
        unmatched: Events that were learned without their match with the prompt, because the prompt is unknown.
        partly_matched: Events that were learned with the similarity to the prompt, but without the words they share.
        left_out: Events that were not learned, because their texts were not kept and have no features.
    """

    unmatched: int = 0
    partly_matched: int = 0
    left_out: int = 0

    def __add__(self, other: "Shortfall") -> "Shortfall":
        return Shortfall(
            self.unmatched + other.unmatched,
            self.partly_matched + other.partly_matched,
            self.left_out + other.left_out,
        )

    def __sub__(self, other: "Shortfall") -> "Shortfall":
        return Shortfall(
            self.unmatched - other.unmatched,
            self.partly_matched - other.partly_matched,
            self.left_out - other.left_out,
        )

    def describe(self) -> list[str]:
        """Return a line for each number that is not 0."""
        lines = (
            (self.unmatched, "learned without their match with the prompt, which is not known"),
            (
                self.partly_matched,
                "learned with the similarity to the prompt, but without the words they share",
            ),
            (self.left_out, "left out: their texts were not kept"),
        )
        return [f"{number} {'event' if number == 1 else 'events'} {what}" for number, what in lines if number]

    def __bool__(self) -> bool:
        return bool(self.unmatched or self.partly_matched or self.left_out)


@dataclass
class Completion:
    """Events of one user with everything that a bundle can learn from them.

    Attributes:
        events: The events that can be learned, and retractions, in order.
        new_features: Features by seq of events that have none under the bundle's extractor. They are not stored.
        new_matches: Features by seq of events of which only the match, and perhaps the prompt, is not stored.
        unmatched: Seqs of events without match.
        partly_matched: Seqs of events with a part of the match.
        left_out: Seqs of events that are not among `events`.
    """

    events: list[LoggedJudgement] = field(default_factory=list)
    new_features: dict[int, JudgedFeatures] = field(default_factory=dict)
    new_matches: dict[int, JudgedFeatures] = field(default_factory=dict)
    unmatched: list[int] = field(default_factory=list)
    partly_matched: list[int] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)

    def count_shortfall(self, after: int = 0) -> Shortfall:
        """Return the numbers of events with seq > `after` that cannot be used in full."""
        lists = (self.unmatched, self.partly_matched, self.left_out)
        return Shortfall(*(sum(seq > after for seq in seqs) for seqs in lists))


def complete_events(
    connection: Connection,
    key: UserKey,
    events: Sequence[LoggedJudgement],
    fold: Fold,
    extractor: TextExtractor | None = None,
) -> Completion:
    """Complete the events of a user. Nothing is written.

    Args:
        connection: Connection with one consistent view of the store.
        key: The user.
        events: Events, as `replay_events` yields them.
        fold: Fold that will learn from them.
        extractor: Computes the features of texts and prompts that have none, if given.

    Raises:
        MissingFeaturesError: If features are missing and no `extractor` is given.

    Cost: nothing for complete events. Otherwise a few queries, and an encoder pass for what is not stored.
    """
    lacking = {event.seq for event in events if event.target is None and event.vectors is None}
    unmatched = {event.seq for event in events if event.target is None and not event.is_matched} - lacking
    if not lacking and not unmatched:
        return Completion(list(events))
    if lacking and extractor is None:
        raise MissingFeaturesError(f"{len(lacking)} events have no features under {fold.extractor}")
    work = _Work(connection, key, fold, extractor)
    completion = work.complete(sorted(lacking), sorted(unmatched))
    for event in events:
        features = completion.new_features.get(event.seq) or completion.new_matches.get(event.seq)
        if features is not None:
            features = replace(features, reads_prompt_embedding=fold.reads_prompt_embedding)
            completion.events.append(
                replace(event, item_keys=features.item_keys, vectors=features.raw, is_matched=True)
            )
        elif event.vectors is not None or event.target is not None:
            completion.events.append(event)
    return completion


class _Work:
    """The completion of one user's events."""

    def __init__(
        self, connection: Connection, key: UserKey, fold: Fold, extractor: TextExtractor | None
    ) -> None:
        self._connection = connection
        self._tenant, self._user = key
        self._fold = fold
        self._extractor = extractor
        self._features: dict[bytes, TextFeatures] = {}

    def complete(self, lacking: Sequence[int], unmatched: Sequence[int]) -> Completion:
        """Complete events without features (`lacking`), and events without match."""
        completion = Completion()
        seqs = [*lacking, *unmatched]
        stored = find_payloads(self._connection, self._tenant, self._user, seqs)
        payloads: dict[int, Mapping[str, Any]] = {seq: orjson.loads(stored[seq]) for seq in seqs}
        pairs = {seq: get_judged_texts(payloads[seq]) for seq in seqs}
        rows = self._find_items(self._fold.extractor, unmatched)
        self._load_features([seq for seq in lacking if pairs[seq]], pairs, unmatched, rows)
        reused = self._reuse_features([seq for seq in lacking if not pairs[seq]])
        for seq in lacking:
            if pairs[seq]:
                completion.new_features[seq] = self._describe(pairs[seq])
            elif seq in reused:
                features, first = reused[seq]
                matched = self._match_without_texts(completion, seq, payloads[seq], features, first)
                completion.new_features[seq] = matched
            else:
                completion.left_out.append(seq)
        for seq in unmatched:
            features = self._read_items(rows[seq])
            if pairs[seq]:
                completion.new_matches[seq] = self._match(features, pairs[seq])
                continue
            matched = self._match_without_texts(completion, seq, payloads[seq], features, rows[seq][0])
            if matched.match_version:
                completion.new_matches[seq] = matched
        return completion

    def _find_items(self, extractor: str, seqs: Sequence[int]) -> dict[int, list[AnyRow]]:
        return find_judged_items(self._connection, self._tenant, self._user, extractor, seqs)

    def _load_features(
        self,
        lacking: Sequence[int],
        pairs: Mapping[int, Sequence[tuple[str, str]]],
        unmatched: Sequence[int],
        rows: Mapping[int, Sequence[AnyRow]],
    ) -> None:
        """Read the features of texts and prompts from the store, and compute those that it does not hold."""
        wanted: dict[bytes, tuple[str, str]] = {}
        extractor, reads_prompts = self._extractor, bool(self._fold.match_version)
        if extractor is not None:
            wanted |= {
                extractor.key(text, prompt): (text, prompt) for seq in lacking for prompt, text in pairs[seq]
            }
        matched = [pairs[seq][0][0] for seq in (*lacking, *unmatched) if pairs[seq]] if reads_prompts else []
        prompts = {prompt for prompt in matched if prompt.strip()}
        if prompts and extractor is None:
            raise MissingFeaturesError(
                f"{len(prompts)} prompts have no features under {self._fold.extractor}"
            )
        if extractor is not None:
            wanted |= {extractor.key(prompt): (prompt, "") for prompt in sorted(prompts)}
        keys = dict.fromkeys(wanted)
        for row in (row for seq in unmatched for row in rows[seq]):
            keys |= dict.fromkeys(key for key in (row.feature_key, row.prompt_key) if key is not None)
        self._features = find_features(self._connection, self._tenant, self._fold.extractor, list(keys))
        todo = {key: pair for key, pair in wanted.items() if key not in self._features}
        if extractor is not None:
            self._features |= _compute_features(todo, extractor)

    def _describe(self, pairs: Sequence[tuple[str, str]]) -> JudgedFeatures:
        """Return the features of an event whose texts are known, with their match."""
        extractor = self._get_extractor()
        keys = tuple(extractor.key(text, prompt) for prompt, text in pairs)
        items = tuple(item_key(prompt, text) for prompt, text in pairs)
        features = _join_features(self._fold.extractor, keys, items, [self._features[k] for k in keys])
        return self._match(features, pairs) if self._fold.match_version else features

    def _read_items(self, rows: Sequence[AnyRow]) -> JudgedFeatures:
        """Return the stored features of an event."""
        return _join_features(
            self._fold.extractor,
            tuple(row.feature_key for row in rows),
            tuple(row.item_key for row in rows),
            [self._features[row.feature_key] for row in rows],
        )

    def _match(self, features: JudgedFeatures, pairs: Sequence[tuple[str, str]]) -> JudgedFeatures:
        """Return features with the match of texts that are known."""
        prompt, version = pairs[0][0], self._fold.match_version
        if not prompt.strip():
            return replace(features, match=_make_unknown(len(pairs)), match_version=version)
        key = self._get_extractor().key(prompt)
        found, n = self._features[key], len(pairs)
        embeddings = np.repeat(get_embedding(found.vector), n, axis=0)
        match = compute_match([prompt] * n, [text for _, text in pairs], embeddings, features.windows)
        return replace(features, match=match, match_version=version, prompt_key=key, prompt=found)

    def _match_without_texts(
        self,
        completion: Completion,
        seq: int,
        payload: Mapping[str, Any],
        features: JudgedFeatures,
        first: AnyRow,
    ) -> JudgedFeatures:
        """Return features with the match of texts that were not kept, as far as it is known.

        The result has no `match_version` if nothing is known about the prompt.

        Args:
            completion: Completion, which counts what is unknown.
            seq: Place of the event.
            payload: Payload of the event.
            features: Features of its texts, with their match if it is stored in the version that the bundle reads.
            first: Stored row of its first text, with the key of the prompt.
        """
        version = self._fold.match_version
        if features.match_version == version:
            return features
        match = _make_unknown(len(features.item_keys))
        prompt = self._features.get(first.prompt_key) if first.prompt_key else None
        if prompt is not None:
            match[:, COSINE] = [compute_cosine(get_embedding(prompt.vector)[0], w) for w in features.windows]
            match[:, BRIEF] = _read_brief(first)
            completion.partly_matched.append(seq)
        elif hash_context(payload) != _BLANK_CONTEXT:
            completion.unmatched.append(seq)
            return replace(features, match=match)
        key = None if prompt is None else first.prompt_key
        return replace(features, match=match, match_version=version, prompt_key=key, prompt=prompt)

    def _reuse_features(self, seqs: Sequence[int]) -> dict[int, tuple[JudgedFeatures, AnyRow]]:
        """Return the features of events that the same encoder read in a single window, by seq, with the first row.

        A text that fits one window has the same vector under both. It keeps its key, because the text is not known.
        """
        identity = self._get_extractor().window_identity if seqs else self._fold.extractor
        if identity == self._fold.extractor:
            return {}
        rows = self._find_items(identity, seqs)
        keys = {
            key for own in rows.values() for row in own for key in (row.feature_key, row.prompt_key) if key
        }
        stored = find_features(self._connection, self._tenant, identity, sorted(keys))
        whole = {key: features for key, features in stored.items() if not features.truncated}
        self._features |= whole
        reused = {}
        for seq, own in rows.items():
            if not all(row.feature_key in whole for row in own):
                continue
            features = self._read_items(own)
            first = own[0]
            version = self._fold.match_version
            if (
                version
                and all(have_same_definitions(row.match_version or "", version) for row in own)
                and (first.prompt_key is None or first.prompt_key in whole)
            ):
                features = replace(
                    features,
                    match=np.stack(
                        [convert_match(unpack_match(row.match), row.match_version, version) for row in own]
                    ),
                    match_version=version,
                    prompt_key=first.prompt_key,
                    prompt=whole[first.prompt_key] if first.prompt_key else None,
                )
            reused[seq] = features, first
        return reused

    def _get_extractor(self) -> TextExtractor:
        if self._extractor is None:
            raise MissingFeaturesError(f"features are missing under {self._fold.extractor}")
        return self._extractor


def _compute_features(
    wanted: Mapping[bytes, tuple[str, str]], extractor: TextExtractor
) -> dict[bytes, TextFeatures]:
    """Return the features of (text, prompt) pairs by content key. Cost: an encoder pass."""
    computed: dict[bytes, TextFeatures] = {}
    items = list(wanted.items())
    for start in range(0, len(items), _BATCH_TEXTS):
        batch = items[start : start + _BATCH_TEXTS]
        features = extractor.extract([text for _, (text, _) in batch], [prompt for _, (_, prompt) in batch])
        for i, (key, _) in enumerate(batch):
            windows = features.windows[i]
            computed[key] = TextFeatures(
                features.vectors[i],
                int(features.tokens[i]),
                bool(features.truncated[i]),
                windows if len(windows) > 1 else None,
            )
    return computed


def _join_features(
    identity: str, keys: tuple[bytes, ...], items: tuple[bytes, ...], texts: Sequence[TextFeatures]
) -> JudgedFeatures:
    """Return the features of an event without match."""
    return JudgedFeatures(
        identity,
        keys,
        items,
        np.stack([text.vector for text in texts]),
        np.array([text.tokens for text in texts], np.int64),
        np.array([text.truncated for text in texts], np.bool_),
        tuple(text.windows for text in texts),
        np.zeros((len(texts), 0), np.float16),
    )


def _make_unknown(n: int) -> NDArray[np.float16]:
    return np.full((n, len(MATCH_NAMES)), np.nan, np.float16)


def _read_brief(row: AnyRow) -> float:
    """Return the kind of the prompt as a match of another version states it, or NaN."""
    match = unpack_match(row.match) if row.match else _make_unknown(1)[0]
    return float(match[BRIEF]) if len(match) == len(MATCH_NAMES) else float("nan")
