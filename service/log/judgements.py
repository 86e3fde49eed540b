"""The feedback log as judgements for fitting a bundle, either as lines of a file with texts or as features only.

Without texts, a text is identified by its feature key and its prompt by a hash, which distinguish texts and prompts
just as well. Nothing has to be encoded then, and tenants that keep no texts are included.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import intern
from typing import Any, Final

import orjson
from sqlalchemy import Connection

from penchant.models.encoding.features import unpack_match
from penchant.models.encoding.match import convert_match, have_same_definitions
from penchant.models.judgements import kinds
from penchant.models.judgements.judgement import DEFAULT_SOURCE, Judgement
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import RewardModel
from penchant.service.log.reading import get_judged_texts, hash_context, in_force
from penchant.service.log.stored_features import StoredFeatures
from penchant.service.store.events import iterate_logs, iterate_payloads
from penchant.service.store.features import find_features
from penchant.service.store.judged_items import iterate_items
from penchant.service.store.statements import AnyRow

_NO_FEATURES: Final = "no features"
_NO_INFORMATION: Final = "says nothing"


@dataclass(frozen=True)
class StoredJudgements:
    """The part of a log that a fit can learn from.

    Attributes:
        judgements: Judgements, ordered by tenant, user and place in the log. Texts are identified by their feature keys.
        vectors: Raw vectors of every (context, text) in them.
        item_keys: Item key of each such (context, text) → item key of the text itself.
        users: Number of users.
        left_out: Number of judgements in force that cannot be learned from, by reason.
        unmatched: Number of judgements whose match with their prompt is unknown. 0 if prompts are not read.
        sha256: Hash of the events, weights and match features that were read, equal for equal logs.
    """

    judgements: list[Judgement]
    vectors: StoredFeatures
    item_keys: dict[bytes, bytes]
    users: int
    left_out: Mapping[str, int]
    unmatched: int
    sha256: str


def read_judgements(
    connection: Connection,
    tenants: Sequence[str],
    extractor: str,
    match_version: str = "",
    *,
    reads_prompt_embedding: bool = False,
) -> StoredJudgements:
    """Return the judgements in force of these tenants' users, with their features under one extractor.

    Args:
        connection: Connection to read from.
        tenants: Tenants whose users' judgements are read.
        extractor: Identity of the extractor of the features.
        match_version: Version of the match features, which are read as well. Empty for none.
        reads_prompt_embedding: Whether vectors also hold the embedding of the prompt.

    Cost: linear. About 300 bytes of memory a judgement, and one feature vector a distinct text and prompt. With match
        features, the texts that were kept are in memory as well.
    """
    judgements: list[Judgement] = []
    vectors = StoredFeatures(reads_prompts=bool(match_version), reads_prompt_embedding=reads_prompt_embedding)
    item_keys: dict[bytes, bytes] = {}
    left_out: Counter[str] = Counter()
    unmatched = 0
    digest = hashlib.sha256()
    for tenant in tenants:
        rows = list(_iterate_judgements(connection, tenant, extractor, left_out))
        items = [item for row in rows for item in row.items]
        keys = dict.fromkeys(item.feature_key for item in items)
        if match_version:
            keys |= dict.fromkeys(item.prompt_key for item in items if item.prompt_key is not None)
        features = find_features(connection, tenant, extractor, list(keys))
        for row in rows:
            if any(item.feature_key not in features for item in row.items):
                left_out[_NO_FEATURES] += 1
                continue
            judgements.append(row.judgement)
            digest.update(orjson.dumps([tenant, row.event_id, row.judgement.weight]))
            context = row.judgement.context
            is_matched = bool(match_version) and all(
                have_same_definitions(item.match_version or "", match_version) for item in row.items
            )
            unmatched += bool(match_version) and not is_matched
            for text, item in zip(row.judgement.texts, row.items, strict=True):
                match = (
                    convert_match(unpack_match(item.match), item.match_version, match_version)
                    if is_matched
                    else None
                )
                digest.update(b"" if match is None else match.tobytes())
                vectors.add_text((context, text), features[item.feature_key], match)
                item_keys.setdefault(item_key(context, text), item.item_key)
            if not match_version:
                continue
            prompt = features.get(row.items[0].prompt_key)
            if prompt is not None:
                vectors.add_prompt(context, prompt)
            for name, words in row.words:
                vectors.add_words(name, words)
    users = len({judgement.user for judgement in judgements})
    return StoredJudgements(
        judgements, vectors, item_keys, users, dict(left_out), unmatched, digest.hexdigest()
    )


def replace_item_keys(reward: RewardModel, keys: Mapping[bytes, bytes]) -> RewardModel:
    """Return a reward model with its item memory's keys mapped to others. Items without a new key are dropped."""
    rows = {keys[key]: row for key, row in reward.memory.rows.items() if key in keys}
    return replace(reward, memory=replace(reward.memory, rows=rows))


@dataclass(frozen=True, slots=True)
class _Row:
    event_id: str
    judgement: Judgement
    items: Sequence[AnyRow]
    words: Sequence[tuple[str, str]]
    """The prompt and the texts by the names that stand for them in the judgement. Empty if they were not kept."""


def _iterate_judgements(
    connection: Connection, tenant: str, extractor: str, left_out: Counter[str]
) -> Iterator[_Row]:
    items = iterate_items(connection, tenant, extractor)
    items_user, items_by_seq = next(items, ("", {}))
    for user, log in iterate_logs(connection, tenant):
        by_seq: Mapping[int, Sequence[AnyRow]] = {}
        if items_by_seq and items_user == user:
            by_seq = items_by_seq
            items_user, items_by_seq = next(items, ("", {}))
        name = intern(f"{tenant}\x1f{user}")
        events = in_force(log)
        payloads = iterate_payloads(connection, tenant, user, [event.seq for event in events])
        for event, (_, content) in zip(events, payloads, strict=True):
            judged = by_seq.get(event.seq, ())
            kind = kinds.BY_TYPE.get(event.type)
            if kind is None or not judged:
                left_out[_NO_FEATURES] += 1
                continue
            groups = tuple(orjson.loads(event.groups)) if event.groups else ()
            weight = event.weight * event.discount
            if (
                not weight or len(groups) == 1 or not kind.can_judge(len(judged))
            ):  # one group compares nothing
                left_out[_NO_INFORMATION] += 1
                continue
            payload = orjson.loads(content)
            context = intern(hash_context(payload))
            names = tuple(intern(item.feature_key.hex()) for item in judged)
            judgement = Judgement(
                user=name,
                context=context,
                kind=kind.name,
                texts=names,
                value=event.value or 0.0,
                source=intern(event.source or DEFAULT_SOURCE),
                weight=weight,
                groups=groups,
            )
            pairs = get_judged_texts(payload)
            words = [(own, text) for own, (_, text) in zip(names, pairs, strict=False)]
            words += [(context, prompt) for prompt, _ in pairs[:1]]
            yield _Row(event.event_id, judgement, judged, words)


def iterate_lines(
    connection: Connection, tenant: str, prefix: str, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the judgements in force of a tenant as lines of a judgement file, ordered by user and place in the log.

    Args:
        connection: Connection to read from.
        tenant: Tenant whose users' judgements are read.
        prefix: Prefix of the users' names.
        left_out: Receives the number of judgements that cannot be written, by reason.
    """
    for user, log in iterate_logs(connection, tenant):
        events = in_force(log)
        payloads = iterate_payloads(connection, tenant, user, [event.seq for event in events])
        for event, (_, content) in zip(events, payloads, strict=True):
            payload = orjson.loads(content)
            texts = [text for _, text in get_judged_texts(payload)]
            weight = event.discount * payload.get("weight", 1.0)
            if not texts:
                left_out["texts are not kept"] += 1
                continue
            kind = kinds.BY_TYPE[payload["type"]]
            is_readable = all(
                text.strip() for text in (prefix + user, *texts)
            )  # judgement files have no blank texts
            if not weight or not is_readable or not kind.can_judge(len(texts)):
                left_out[_NO_INFORMATION] += 1
                continue
            yield (
                {"user": prefix + user, "context": payload.get("prompt", "")}
                | kind.to_line(payload)
                | ({} if weight == 1 else {"weight": weight})
                | {"source": event.source or DEFAULT_SOURCE}
            )
