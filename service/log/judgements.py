"""From the feedback log to judgements that a bundle can be fitted to: as lines with texts, or by features alone.

Features serve in place of texts: a text is called by its feature key and its prompt by a hash, which tell texts and
prompts apart as well as they do themselves. So nothing is encoded, and tenants that keep no texts are learned from too.
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

from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import DEFAULT_SOURCE, RewardModel
from penchant.service.log.reading import KINDS, in_force, judged_texts
from penchant.service.log.textless import context_of
from penchant.service.store.events import user_logs
from penchant.service.store.features import vectors_of
from penchant.service.store.judged import user_items
from penchant.service.store.statements import AnyRow

Item = tuple[str, str]
"""(context, text), of an item that goes by its keys."""

COMPARED: Final = 2
"""Texts that a comparison has at least."""


@dataclass(frozen=True)
class StoredJudgements:
    """What a log holds that can be learned from.

    Attributes:
        judgements: In the order of tenants, users and their logs; texts go by their feature keys.
        vectors: Features of every (context, text) in them.
        item_keys: Item key of such a (context, text) → that of the text itself.
        users: How many users said them.
        left_out: Judgements in force that cannot be learned from, by why.
        sha256: Of what was read: equal for an equal log.
    """

    judgements: list[Judgement]
    vectors: dict[Item, NDArray[np.float16]]
    item_keys: dict[bytes, bytes]
    users: int
    left_out: Mapping[str, int]
    sha256: str


def read_judgements(connection: Connection, tenants: Sequence[str], extractor: str) -> StoredJudgements:
    """Judgements in force of these tenants' users, with the features that one extractor gave them.

    Cost: linear; in memory about 300 bytes a judgement, and a feature vector a distinct text.
    """
    judgements: list[Judgement] = []
    vectors: dict[Item, NDArray[np.float16]] = {}
    item_keys: dict[bytes, bytes] = {}
    left_out: Counter[str] = Counter()
    digest = hashlib.sha256()
    for tenant in tenants:
        told = list(_told(connection, tenant, extractor, left_out))
        keys = list(dict.fromkeys(key for one in told for key, _ in one.items))
        found = vectors_of(connection, tenant, extractor, keys)
        for one in told:
            if any(key not in found for key, _ in one.items):
                left_out["no features"] += 1
                continue
            judgements.append(one.judgement)
            digest.update(orjson.dumps([tenant, one.event_id, one.judgement.weight]))
            for text, (feature, item) in zip(one.judgement.texts, one.items, strict=True):
                named = (one.judgement.context, text)
                if named not in vectors:
                    vectors[named] = found[feature]
                    item_keys[item_key(*named)] = item
    users = len({judgement.user for judgement in judgements})
    return StoredJudgements(judgements, vectors, item_keys, users, dict(left_out), digest.hexdigest())


def with_item_keys(reward: RewardModel, keys: Mapping[bytes, bytes]) -> RewardModel:
    """A reward model whose item memory is looked up by other keys; what has none is found no more."""
    rows = {keys[key]: row for key, row in reward.memory.rows.items() if key in keys}
    return replace(reward, memory=replace(reward.memory, rows=rows))


@dataclass(frozen=True, slots=True)
class _Told:
    event_id: str
    judgement: Judgement
    items: Sequence[tuple[bytes, bytes]]


def _told(connection: Connection, tenant: str, extractor: str, left_out: Counter[str]) -> Iterator[_Told]:
    items = user_items(connection, tenant, extractor)
    item_user, judged = next(items, ("", {}))
    for user, log in user_logs(connection, tenant):
        mine: Mapping[int, Sequence[tuple[bytes, bytes]]] = {}
        if judged and item_user == user:
            mine = judged
            item_user, judged = next(items, ("", {}))
        name = intern(f"{tenant}\x1f{user}")
        for event in in_force(log):
            keys = mine.get(event.seq, ())
            if event.type not in KINDS or not keys:
                left_out["no features"] += 1
            elif not (weight := event.weight * event.discount) or _says_nothing(event, keys):
                left_out["says nothing"] += 1
            else:
                yield _Told(event.event_id, _judgement(name, event, keys, weight), keys)


def _says_nothing(event: AnyRow, keys: Sequence[tuple[bytes, bytes]]) -> bool:
    """A comparison of one text, or of texts that are all tied."""
    kind = KINDS[event.type]
    if kind in ("vote", "rating"):
        return False
    return len(keys) < COMPARED or (event.groups is not None and len(orjson.loads(event.groups)) < COMPARED)


def _judgement(user: str, event: AnyRow, keys: Sequence[tuple[bytes, bytes]], weight: float) -> Judgement:
    groups = tuple(orjson.loads(event.groups)) if event.groups else ()
    return Judgement(
        user=user,
        context=intern(context_of(orjson.loads(event.payload))),
        kind=KINDS[event.type],
        texts=tuple(intern(key.hex()) for key, _ in keys),
        value=event.value or 0.0,
        source=intern(event.source or DEFAULT_SOURCE),
        weight=weight,
        groups=groups,
    )


def lines(
    log: Iterable[tuple[str, list[AnyRow]]], prefix: str, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Judgements in force as lines of a judgement file, in the order of users and their logs.

    Args:
        log: Users' logs, as `user_logs` gives them.
        prefix: What stands before the users' names.
        left_out: Counts what cannot be written, by why.
    """
    for user, events in log:
        for event in in_force(events):
            sent = orjson.loads(event.payload)
            weight = event.discount * sent.get("weight", 1.0)
            said = _said(sent)
            if said is None:
                left_out["texts are not kept"] += 1
            elif not weight or not _is_readable(prefix + user, sent):
                left_out["says nothing"] += 1
            else:
                weighted = {} if weight == 1 else {"weight": weight}
                source = event.source or DEFAULT_SOURCE
                yield (
                    {"user": prefix + user, "context": sent.get("prompt", "")}
                    | said
                    | weighted
                    | {"source": source}
                )


def _said(sent: Mapping[str, Any]) -> dict[str, Any] | None:
    """An event in the words of a judgement file; None where its texts are not there."""
    match sent:
        case {"type": "preference", "chosen": chosen, "rejected": rejected}:
            strength = {"strength": sent["strength"]} if "strength" in sent else {}
            found = {"chosen": chosen, "rejected": rejected} | strength
        case {"type": "choice", "candidates": candidates, "index": index}:
            found = {"candidates": candidates, "index": index}
        case {"type": "choice", "chosen": chosen, "others": others}:
            found = {"candidates": [chosen, *others], "index": 0}
        case {"type": "ranking", "order": order}:
            found = {"order": order}
        case {"type": "vote", "text": text, "value": value}:
            found = {"item": text, "vote": value}
        case {"type": "rating", "text": text, "value": value, "scale": scale}:
            found = {"item": text, "rating": value, "scale": scale}
        case {"type": "edit", "original": original, "edited": edited}:
            found = {"before": original, "after": edited}
        case _:
            return None
    return found


def _is_readable(user: str, sent: Mapping[str, Any]) -> bool:
    """Whether `fit` takes the line: it wants names and texts that are not blank, and two texts to compare."""
    texts = [text for _, text in judged_texts(sent)]
    enough = len(texts) >= COMPARED or sent["type"] in ("vote", "rating")
    return enough and all(text.strip() for text in (user, *texts))
