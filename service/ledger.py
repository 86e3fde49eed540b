"""One group of feedback, from jobs to rows: what is duplicate, what conflicts, what is learned.

A group is one transaction. A job is one request: applied whole or not at all; its failure harms no other.
The writer's thread runs this.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Connection

from penchant.models.posterior import UserPosterior
from penchant.models.reward import RewardModel
from penchant.service.errors import ApiError, Code, InvalidRequestError, internal_error, problem
from penchant.service.events import observation
from penchant.service.jobs import FeedbackAnswer, FeedbackJob, ReadyEvent, feature_rows, item_rows
from penchant.service.states import StateCache, UserKey, UserState
from penchant.service.store import queries, tables
from penchant.service.telemetry import log_failure


@dataclass
class _Changes:
    """What a job, or a group, changes: states and rows that are not in the database yet."""

    states: dict[UserKey, UserState] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, other: "_Changes") -> None:
        self.states |= other.states
        self.known |= other.known
        for name in ("events", "items", "features", "answers"):
            getattr(self, name).extend(getattr(other, name))


class Ledger:
    """Applies feedback to the log and the states.

    Args:
        reward: Describes judged texts.
        bundle_version: Marks the states that are learned.
        extractor: Identity of the features.
        cache: Current states of users in memory; the caller publishes to it after the commit.
    """

    def __init__(self, reward: RewardModel, bundle_version: str, extractor: str, cache: StateCache) -> None:
        self._reward = reward
        self._bundle_version = bundle_version
        self._extractor = extractor
        self._cache = cache
        self._prior = UserPosterior.at_prior(reward.population)

    def apply(
        self, connection: Connection, jobs: Sequence[FeedbackJob]
    ) -> tuple[list[FeedbackAnswer | ApiError], dict[UserKey, UserState]]:
        """Writes a group in the caller's transaction.

        Returns:
            An answer for each job, and the states to be published once the transaction is durable.
        """
        group = _Changes()
        self._load(connection, jobs, group)
        before = dict(group.states)
        answers = [self._apply_job(job, group) for job in jobs]
        changed = {key: state for key, state in group.states.items() if before.get(key) is not state}
        queries.add(connection, tables.features, group.features)
        queries.add(connection, tables.judged_items, group.items)
        queries.add(connection, tables.feedback_events, group.events)
        queries.put_states(connection, [self._state_row(key, state) for key, state in changed.items()])
        queries.add_answers(connection, group.answers)
        return answers, changed

    def _load(self, connection: Connection, jobs: Iterable[FeedbackJob], group: _Changes) -> None:
        """Reads what the group needs to know, in few queries: event ids in the log, states of the users."""
        ids: dict[str, set[str]] = {}
        users: dict[str, set[str]] = {}
        for job in jobs:
            for event in job.events:
                users.setdefault(job.tenant, set()).add(event.user)
                if event.parsed.is_callers_id:
                    ids.setdefault(job.tenant, set()).add(event.parsed.event_id)
        for tenant, some in ids.items():
            for event_id, (digest, user) in queries.known_events(connection, tenant, sorted(some)).items():
                group.known[(tenant, event_id)] = (digest, user)
                users.setdefault(tenant, set()).add(user)
        for tenant, some in users.items():
            missing = []
            for user in some:
                found, state = self._cache.find((tenant, user))
                if not found:
                    missing.append(user)
                elif state is not None:
                    group.states[(tenant, user)] = state
            for user, row in queries.find_states(connection, tenant, sorted(missing)).items():
                group.states[(tenant, user)] = UserState.from_row(row, self._reward.population)

    def _apply_job(self, job: FeedbackJob, group: _Changes) -> FeedbackAnswer | ApiError:
        """One request on top of the group so far; merged into it only as a whole."""
        mine = _Changes()
        rejected, outcomes = list(job.rejected), [("invalid", "rejected")] * len(job.rejected)
        accepted = duplicates = 0
        touched: dict[str, None] = {}
        for event in job.events:
            key = (job.tenant, event.parsed.event_id)
            earlier = mine.known.get(key) or group.known.get(key)
            kind = getattr(event.parsed.event, "type", "")
            if earlier is not None and earlier[0] == event.parsed.content_hash:
                duplicates += 1
                touched[earlier[1]] = None
                outcomes.append((kind, "duplicate"))
                continue
            fault = _conflict(event) if earlier is not None else event.fault
            if fault is None:
                try:
                    self._learn(job, event, mine, group)
                except Exception as error:
                    log_failure("learning_failed", error, type=kind)
                    return internal_error()
                accepted += 1
                touched[event.user] = None
                outcomes.append((kind, "accepted"))
            else:
                rejected.append((event.parsed.index, fault))
                outcomes.append((kind, "rejected"))
        if job.bare and rejected:
            return rejected[0][1]
        states = {
            user: mine.states.get((job.tenant, user)) or group.states.get((job.tenant, user))
            for user in touched
        }
        body = _answer(accepted, duplicates, rejected, states)
        if job.idempotency is not None:
            mine.answers.append(
                {
                    "tenant": job.tenant,
                    "key": job.idempotency.key,
                    "request_hash": job.idempotency.request_hash,
                    "answer": body,
                    "users": orjson.dumps(list(touched)).decode(),
                    "created_at": job.received_at,
                }
            )
        group.merge(mine)
        return FeedbackAnswer(body, tuple(outcomes))

    def _learn(self, job: FeedbackJob, event: ReadyEvent, mine: _Changes, group: _Changes) -> None:
        """One event: posterior, state, rows."""
        if event.judged is None or event.features is None:
            raise ValueError("an event without features can only be a duplicate")
        key, judged, features = (job.tenant, event.user), event.judged, event.features
        state = mine.states.get(key) or group.states.get(key) or UserState(0, 0, self._prior, 0.0)
        items = self._reward.describe(features.vectors, features.item_keys)
        said = observation(
            self._reward,
            items,
            kind=judged.type,
            value=judged.value,
            weight=judged.weight,
            source=judged.source,
        )
        posterior = state.posterior.learn(said)
        if not (np.isfinite(posterior.precision).all() and np.isfinite(posterior.linear).all()):
            raise ArithmeticError("the posterior is not finite")
        seq = state.feedback_events + 1
        mine.states[key] = replace(
            state,
            version=state.version + 1,
            feedback_events=seq,
            posterior=posterior,
            updated_at=job.received_at,
        )
        mine.known[(job.tenant, event.parsed.event_id)] = (event.parsed.content_hash, event.user)
        mine.events.append(
            {
                "tenant": job.tenant,
                "user_id": event.user,
                "seq": seq,
                "event_id": event.parsed.event_id,
                "content_hash": event.parsed.content_hash,
                "type": judged.type,
                "value": judged.value,
                "weight": judged.weight,
                "source": judged.source,
                "payload": judged.payload,
                "received_at": job.received_at,
            }
        )
        mine.items += item_rows(job.tenant, event.user, seq, self._extractor, features)
        mine.features += feature_rows(job.tenant, self._extractor, features)

    def _state_row(self, key: UserKey, state: UserState) -> dict[str, Any]:
        return {
            "tenant": key[0],
            "user_id": key[1],
            "version": state.version,
            "feedback_events": state.feedback_events,
            "bundle_version": self._bundle_version,
            "state": state.posterior.to_bytes(),
            "updated_at": state.updated_at,
        }


def _conflict(event: ReadyEvent) -> ApiError:
    fault = "An event with this id and other content is in the log."
    return InvalidRequestError((f"{event.parsed.pointer}/event_id", fault), code=Code.EVENT_ID_CONFLICT)


def _answer(
    accepted: int, duplicates: int, rejected: list[tuple[int, ApiError]], states: dict[str, UserState | None]
) -> bytes:
    return orjson.dumps(
        {
            "accepted": accepted,
            "duplicates": duplicates,
            "rejected": [
                {"index": i, "problem": problem(e)} for i, e in sorted(rejected, key=lambda r: r[0])
            ],
            "users": [
                {"user": user, "posterior_version": state.version, "feedback_events": state.feedback_events}
                for user, state in states.items()
                if state is not None
            ],
        }
    )
