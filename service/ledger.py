"""One group of feedback, from jobs to rows: what is duplicate, what conflicts, what is learned.

A group is one transaction. A job is one request: applied whole or not at all; its failure harms no other.
The writer's thread runs this.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from penchant.service.errors import ApiError, Code, InvalidRequestError, internal_error, problem
from penchant.service.fold import Fold
from penchant.service.jobs import FeedbackAnswer, FeedbackJob, ReadyEvent, event_row, feature_rows, item_rows
from penchant.service.states import StateCache, UserKey, UserState
from penchant.service.store import queries, tables
from penchant.service.store.queries import LoggedJudgement
from penchant.service.telemetry import log_failure


@dataclass
class _Changes:
    """What a job, or a group, changes: states, events and rows that are not in the database yet."""

    states: dict[UserKey, UserState] = field(default_factory=dict)
    logs: dict[UserKey, list[LoggedJudgement]] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, other: "_Changes") -> None:
        self.states |= other.states
        for key, log in other.logs.items():
            self.logs.setdefault(key, []).extend(log)
        self.known |= other.known
        for name in ("events", "items", "features", "answers"):
            getattr(self, name).extend(getattr(other, name))


class Ledger:
    """Applies feedback to the log and the states.

    Args:
        fold: Learns.
        bundle_version: Marks the states that are learned.
        extractor: Identity of the features.
        cache: Current states of users in memory; the caller publishes to it after the commit.
    """

    def __init__(self, fold: Fold, bundle_version: str, extractor: str, cache: StateCache) -> None:
        self._fold = fold
        self._bundle_version = bundle_version
        self._extractor = extractor
        self._cache = cache

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
        answers = [self._apply_job(connection, job, group) for job in jobs]
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
                if event.judged is not None and event.judged.target is not None:
                    ids.setdefault(job.tenant, set()).add(event.judged.target)
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
                group.states[(tenant, user)] = UserState.from_row(row, self._fold.reward.population)

    def _apply_job(
        self, connection: Connection, job: FeedbackJob, group: _Changes
    ) -> FeedbackAnswer | ApiError:
        """One request on top of the group so far; merged into it only as a whole."""
        mine = _Changes()
        rejected, outcomes = list(job.rejected), [("invalid", "rejected")] * len(job.rejected)
        touched: dict[str, None] = {}
        try:
            for event in job.events:
                earlier = _known(event.parsed.event_id, job.tenant, mine, group)
                kind = getattr(event.parsed.event, "type", "")
                if earlier is not None and earlier[0] == event.parsed.content_hash:
                    touched[earlier[1]] = None
                    outcomes.append((kind, "duplicate"))
                elif fault := _conflict(event) if earlier else _fault(job, event, mine, group):
                    rejected.append((event.parsed.index, fault))
                    outcomes.append((kind, "rejected"))
                else:
                    self._log(job, event, mine, group)
                    touched[event.user] = None
                    outcomes.append((kind, "accepted"))
            changes = sum(self._learn(connection, key, mine, group) for key in mine.logs)
        except SQLAlchemyError:  # the log could not be read: that is no fault of this job's
            raise
        except Exception as error:
            log_failure("learning_failed", error, types=sorted({kind for kind, _ in outcomes}))
            return internal_error()
        if job.bare and rejected:
            return rejected[0][1]
        states = {user: _state((job.tenant, user), mine, group) for user in touched}
        body = _answer(Counter(outcome for _, outcome in outcomes), rejected, states)
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
        return FeedbackAnswer(body, tuple(outcomes), changes)

    def _log(self, job: FeedbackJob, event: ReadyEvent, mine: _Changes, group: _Changes) -> None:
        """One event: its place in the log, and its rows."""
        judged, features, key = event.judged, event.features, (job.tenant, event.user)
        if judged is None:
            raise ValueError("an event without judgement can only be a duplicate")
        state = _state(key, mine, group) or UserState(0, 0, self._fold.start, 0.0)
        seq = state.feedback_events + 1
        mine.states[key] = replace(
            state, version=state.version + 1, feedback_events=seq, updated_at=job.received_at
        )
        mine.known[(job.tenant, event.parsed.event_id)] = (event.parsed.content_hash, event.user)
        logged = LoggedJudgement(
            seq=seq,
            event_id=event.parsed.event_id,
            type=judged.type,
            value=judged.value,
            weight=judged.weight,
            groups=judged.groups,
            target=judged.target,
            source=judged.source,
            received_at=job.received_at,
            item_keys=features.item_keys if features is not None else (),
            vectors=features.vectors if features is not None else None,
        )
        mine.logs.setdefault(key, []).append(logged)
        mine.events.append(event_row(key, logged, event.parsed.content_hash, judged.payload))
        if features is not None:
            mine.items += item_rows(job.tenant, event.user, seq, self._extractor, features)
            mine.features += feature_rows(job.tenant, self._extractor, features)

    def _learn(self, connection: Connection, key: UserKey, mine: _Changes, group: _Changes) -> int:
        """What a job's events make of a user's state; returns how many change points they brought to light.

        Cost: one step of the fold an event; with a retraction among them, one replay of the user's log.
        """
        state, new = mine.states[key], mine.logs[key]
        if any(event.target is not None for event in new):
            stored = queries.replay_events(connection, *key, self._extractor)
            evidence = self._fold.replay([*stored, *group.logs.get(key, ()), *new])
        else:
            evidence = state.evidence
            for event in new:
                evidence = self._fold.learn(evidence, event)
        mine.states[key] = replace(state, evidence=evidence)
        return max(0, evidence.posterior.changes - state.evidence.posterior.changes)

    def _state_row(self, key: UserKey, state: UserState) -> dict[str, Any]:
        return {
            "tenant": key[0],
            "user_id": key[1],
            "version": state.version,
            "feedback_events": state.feedback_events,
            "bundle_version": self._bundle_version,
            "half_life_days": self._fold.forgetting.half_life_days,
            "state": state.evidence.posterior.to_bytes(),
            "as_of": state.evidence.as_of,
            "updated_at": state.updated_at,
        }


def _known(event_id: str, tenant: str, mine: _Changes, group: _Changes) -> tuple[bytes, str] | None:
    """(content hash, user) of an event that is in the log, or will be with this group."""
    return mine.known.get((tenant, event_id)) or group.known.get((tenant, event_id))


def _state(key: UserKey, mine: _Changes, group: _Changes) -> UserState | None:
    return mine.states.get(key) or group.states.get(key)


def _conflict(event: ReadyEvent) -> ApiError:
    fault = "An event with this id and other content is in the log."
    return InvalidRequestError((f"{event.parsed.pointer}/event_id", fault), code=Code.EVENT_ID_CONFLICT)


def _fault(job: FeedbackJob, event: ReadyEvent, mine: _Changes, group: _Changes) -> ApiError | None:
    """Why an event that is new cannot be logged."""
    if event.judged is None or event.judged.target is None:
        return event.fault
    target = _known(event.judged.target, job.tenant, mine, group)
    if target is not None and target[1] == event.user:
        return None
    where = f"{event.parsed.pointer}/target_event_id"
    return InvalidRequestError((where, "The user's log has no event of this id."), code=Code.EVENT_NOT_FOUND)


def _answer(
    counts: Counter[str], rejected: list[tuple[int, ApiError]], states: dict[str, UserState | None]
) -> bytes:
    return orjson.dumps(
        {
            "accepted": counts["accepted"],
            "duplicates": counts["duplicate"],
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
