"""Users whose state another bundle made are learned again from the log, at start.

Features stored with the log serve while the extractor is the same; a new one reads the texts again.
"""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection

from penchant.models.bundle import Bundle
from penchant.models.features import FeatureExtractor
from penchant.models.posterior import UserPosterior
from penchant.models.reward import item_key
from penchant.service.events import judged_texts, observation
from penchant.service.jobs import JudgedFeatures, feature_rows, item_rows
from penchant.service.store import queries, tables
from penchant.service.store.database import Database
from penchant.service.store.queries import LoggedJudgement
from penchant.service.telemetry import log

_USERS_PER_COMMIT: Final = 200
_REPORT_SECONDS: Final = 2.0


def rebuild(database: Database, bundle: Bundle, extractor: FeatureExtractor) -> int:
    """Brings all states to the loaded bundle; returns how many users were learned again.

    Resumes where it was interrupted: what is done is committed, `_USERS_PER_COMMIT` users at a time.
    """
    with database.reading() as connection:
        users = queries.outdated_users(connection, bundle.version)
    if not users:
        return 0
    log.info("rebuild_started", users=len(users), bundle=bundle.version)
    started = reported = time.monotonic()
    encoded = 0
    for start in range(0, len(users), _USERS_PER_COMMIT):
        with database.writing() as connection:
            for tenant, user in users[start : start + _USERS_PER_COMMIT]:
                encoded += _rebuild_user(connection, tenant, user, bundle, extractor)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            log.info("rebuild_progress", done=start + _USERS_PER_COMMIT, users=len(users))
    seconds = round(time.monotonic() - started, 3)
    log.info(
        "rebuild_finished", users=len(users), texts_encoded=encoded, seconds=seconds, bundle=bundle.version
    )
    return len(users)


def _rebuild_user(
    connection: Connection, tenant: str, user: str, bundle: Bundle, extractor: FeatureExtractor
) -> int:
    """One user from the log; returns how many texts had to be read again."""
    events = list(queries.replay_events(connection, tenant, user, extractor.identity))
    fresh = _read_again(connection, tenant, user, events, extractor)
    posterior = UserPosterior.at_prior(bundle.reward.population)
    for event in events:
        if event.vectors is not None:
            keys, vectors = event.item_keys, event.vectors
        else:
            keys, vectors = fresh[event.seq].item_keys, fresh[event.seq].vectors
        posterior = _learn(bundle, posterior, event, keys, vectors)
    row = queries.find_states(connection, tenant, [user])[user]
    changes = {"version": row.version + 1, "bundle_version": bundle.version, "state": posterior.to_bytes()}
    queries.set_state(connection, tenant, user, changes)
    return sum(len(features.feature_keys) for features in fresh.values())


def _learn(
    bundle: Bundle,
    posterior: UserPosterior,
    event: LoggedJudgement,
    keys: tuple[bytes, ...],
    vectors: NDArray[np.float16],
) -> UserPosterior:
    items = bundle.reward.describe(vectors, keys)
    return posterior.learn(
        observation(
            bundle.reward, items, kind=event.type, value=event.value, weight=event.weight, source=event.source
        )
    )


def _read_again(
    connection: Connection,
    tenant: str,
    user: str,
    events: Sequence[LoggedJudgement],
    extractor: FeatureExtractor,
) -> dict[int, JudgedFeatures]:
    """Features, by seq, of events that have none under this extractor; stored for the next time."""
    lacking = [
        (event.seq, judged_texts(orjson.loads(event.payload))) for event in events if event.vectors is None
    ]
    pairs = [pair for _, texts in lacking for pair in texts]
    if not pairs:
        return {}
    extracted = extractor.extract([text for _, text in pairs], [prompt for prompt, _ in pairs])
    fresh, start = {}, 0
    for seq, texts in lacking:
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
