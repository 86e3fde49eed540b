"""The feedback log as judgements for fitting a bundle, either as lines of a file with texts or as features only.

Without texts, a text is identified by its feature key and its prompt by a hash, which distinguish texts and prompts
just as well. Nothing has to be encoded then, and tenants that keep no texts are included.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import intern
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection

from penchant.models.judgements import kinds
from penchant.models.judgements.judgement import DEFAULT_SOURCE, Judgement
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import RewardModel
from penchant.service.log.reading import get_judged_texts, hash_context, in_force
from penchant.service.store.events import iterate_logs
from penchant.service.store.features import find_vectors
from penchant.service.store.judged_items import iterate_items
from penchant.service.store.statements import AnyRow

Item = tuple[str, str]
"""(context, text), where each is a hash or key that stands for the text itself."""

_NO_FEATURES: Final = "no features"
_NO_INFORMATION: Final = "says nothing"


@dataclass(frozen=True)
class StoredJudgements:
    """The part of a log that a fit can learn from.

    Attributes:
        judgements: Judgements, ordered by tenant, user and place in the log. Texts are identified by their feature keys.
        vectors: Features of every (context, text) in them.
        item_keys: Item key of each such (context, text) → item key of the text itself.
        users: Number of users.
        left_out: Number of judgements in force that cannot be learned from, by reason.
        sha256: Hash of the events and weights that were read, equal for equal logs.
    """

    judgements: list[Judgement]
    vectors: dict[Item, NDArray[np.float16]]
    item_keys: dict[bytes, bytes]
    users: int
    left_out: Mapping[str, int]
    sha256: str


def read_judgements(connection: Connection, tenants: Sequence[str], extractor: str) -> StoredJudgements:
    """Return the judgements in force of these tenants' users, with their features under one extractor.

    Cost: linear. About 300 bytes of memory a judgement, and one feature vector a distinct text.
    """
    judgements: list[Judgement] = []
    vectors: dict[Item, NDArray[np.float16]] = {}
    item_keys: dict[bytes, bytes] = {}
    left_out: Counter[str] = Counter()
    digest = hashlib.sha256()
    for tenant in tenants:
        rows = list(_iterate_judgements(connection, tenant, extractor, left_out))
        keys = list(dict.fromkeys(key for row in rows for key, _ in row.items))
        features = find_vectors(connection, tenant, extractor, keys)
        for row in rows:
            if any(key not in features for key, _ in row.items):
                left_out[_NO_FEATURES] += 1
                continue
            judgements.append(row.judgement)
            digest.update(orjson.dumps([tenant, row.event_id, row.judgement.weight]))
            for text, (feature_key, text_item_key) in zip(row.judgement.texts, row.items, strict=True):
                item = (row.judgement.context, text)
                if item not in vectors:
                    vectors[item] = features[feature_key]
                    item_keys[item_key(*item)] = text_item_key
    users = len({judgement.user for judgement in judgements})
    return StoredJudgements(judgements, vectors, item_keys, users, dict(left_out), digest.hexdigest())


def replace_item_keys(reward: RewardModel, keys: Mapping[bytes, bytes]) -> RewardModel:
    """Return a reward model with its item memory's keys mapped to others. Items without a new key are dropped."""
    rows = {keys[key]: row for key, row in reward.memory.rows.items() if key in keys}
    return replace(reward, memory=replace(reward.memory, rows=rows))


@dataclass(frozen=True, slots=True)
class _Row:
    event_id: str
    judgement: Judgement
    items: Sequence[tuple[bytes, bytes]]


def _iterate_judgements(
    connection: Connection, tenant: str, extractor: str, left_out: Counter[str]
) -> Iterator[_Row]:
    items = iterate_items(connection, tenant, extractor)
    items_user, items_by_seq = next(items, ("", {}))
    for user, log in iterate_logs(connection, tenant):
        keys_by_seq: Mapping[int, Sequence[tuple[bytes, bytes]]] = {}
        if items_by_seq and items_user == user:
            keys_by_seq = items_by_seq
            items_user, items_by_seq = next(items, ("", {}))
        name = intern(f"{tenant}\x1f{user}")
        for event in in_force(log):
            keys = keys_by_seq.get(event.seq, ())
            kind = kinds.BY_TYPE.get(event.type)
            if kind is None or not keys:
                left_out[_NO_FEATURES] += 1
                continue
            groups = tuple(orjson.loads(event.groups)) if event.groups else ()
            weight = event.weight * event.discount
            if not weight or len(groups) == 1 or not kind.can_judge(len(keys)):  # one group compares nothing
                left_out[_NO_INFORMATION] += 1
                continue
            judgement = Judgement(
                user=name,
                context=intern(hash_context(orjson.loads(event.payload))),
                kind=kind.name,
                texts=tuple(intern(key.hex()) for key, _ in keys),
                value=event.value or 0.0,
                source=intern(event.source or DEFAULT_SOURCE),
                weight=weight,
                groups=groups,
            )
            yield _Row(event.event_id, judgement, keys)


def iterate_lines(
    log: Iterable[tuple[str, list[AnyRow]]], prefix: str, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the judgements in force as lines of a judgement file, ordered by user and place in the log.

    Args:
        log: Each user and the user's log, as `iterate_logs` yields them.
        prefix: Prefix of the users' names.
        left_out: Receives the number of judgements that cannot be written, by reason.
    """
    for user, events in log:
        for event in in_force(events):
            payload = orjson.loads(event.payload)
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
