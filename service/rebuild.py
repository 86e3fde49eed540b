"""Users whose state another bundle made, or other forgetting, are learned again from the log, at start.

Features stored with the log serve while the extractor is the same; a new one reads the texts again.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson
from sqlalchemy import Connection

from penchant.models.bundle import Bundle
from penchant.models.features import FeatureExtractor
from penchant.models.reward import item_key
from penchant.service.fold import Fold
from penchant.service.forgetting import Forgetting
from penchant.service.jobs import JudgedFeatures, feature_rows, item_rows
from penchant.service.judged import judged_texts
from penchant.service.states import UserKey
from penchant.service.store import queries, tables
from penchant.service.store.database import Database
from penchant.service.store.queries import LoggedJudgement
from penchant.service.telemetry import log

_USERS_PER_COMMIT: Final = 200
_REPORT_SECONDS: Final = 2.0


def rebuild(database: Database, bundle: Bundle, extractor: FeatureExtractor, forgetting: Forgetting) -> int:
    """Brings all states to the loaded bundle and forgetting; returns how many users were learned again.

    Resumes where it was interrupted: what is done is committed, `_USERS_PER_COMMIT` users at a time.
    """
    with database.reading() as connection:
        users = queries.outdated_users(connection, bundle.version, forgetting.half_life_days)
    if not users:
        return 0
    log.info("rebuild_started", users=len(users), bundle=bundle.version)
    started = reported = time.monotonic()
    encoded = 0
    fold = Fold(bundle.reward, forgetting)
    for start in range(0, len(users), _USERS_PER_COMMIT):
        with database.writing() as connection:
            for key in users[start : start + _USERS_PER_COMMIT]:
                encoded += _rebuild_user(connection, key, bundle.version, fold, extractor)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            log.info("rebuild_progress", done=start + _USERS_PER_COMMIT, users=len(users))
    seconds = round(time.monotonic() - started, 3)
    log.info(
        "rebuild_finished", users=len(users), texts_encoded=encoded, seconds=seconds, bundle=bundle.version
    )
    return len(users)


def _rebuild_user(
    connection: Connection, key: UserKey, version: str, fold: Fold, extractor: FeatureExtractor
) -> int:
    """One user from the log; returns how many texts had to be read again."""
    tenant, user = key
    events = list(queries.replay_events(connection, tenant, user, extractor.identity))
    lacking = [event.seq for event in events if event.vectors is None and event.target is None]
    fresh = _read_again(connection, tenant, user, lacking, extractor)
    evidence = fold.replay(_completed(event, fresh.get(event.seq)) for event in events)
    row = queries.find_states(connection, tenant, [user])[user]
    changes = {
        "version": row.version + 1,
        "bundle_version": version,
        "half_life_days": fold.forgetting.half_life_days,
        "state": evidence.posterior.to_bytes(),
        "as_of": evidence.as_of,
    }
    queries.set_state(connection, tenant, user, changes)
    return sum(len(features.feature_keys) for features in fresh.values())


def _completed(event: LoggedJudgement, features: JudgedFeatures | None) -> LoggedJudgement:
    if features is None:
        return event
    return replace(event, item_keys=features.item_keys, vectors=features.vectors)


def _read_again(
    connection: Connection, tenant: str, user: str, seqs: Sequence[int], extractor: FeatureExtractor
) -> dict[int, JudgedFeatures]:
    """Features, by seq, of events that have none under this extractor; stored for the next time."""
    lacking = {
        seq: judged_texts(orjson.loads(payload))
        for seq, payload in queries.payloads(connection, tenant, user, seqs).items()
    }
    pairs = [pair for texts in lacking.values() for pair in texts]
    if not pairs:
        return {}
    extracted = extractor.extract([text for _, text in pairs], [prompt for prompt, _ in pairs])
    fresh, start = {}, 0
    for seq, texts in lacking.items():
        rows = slice(start, start := start + len(texts))
        fresh[seq] = JudgedFeatures(
            tuple(extractor.key(text, prompt) for prompt, text in texts),
            tuple(item_key(prompt, text) for prompt, text in texts),
            extracted.vectors[rows],
            extracted.tokens[rows],
            extracted.truncated[rows],
        )
        queries.add(
            connection, tables.judged_items, item_rows(tenant, user, seq, extractor.identity, fresh[seq])
        )
        queries.add(connection, tables.features, feature_rows(tenant, extractor.identity, fresh[seq]))
    return fresh
