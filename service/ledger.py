"""One group of feedback, from jobs to rows: what is duplicate, what conflicts, what is learned.

A group is one transaction. A job is one request: applied whole or not at all; its failure harms no other.
The writer's thread runs this. On a shared store another server may have written the same users a moment ago: all that
matters is read in the transaction, after the locks; memory serves where the store says that it is the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from penchant.service.errors import ApiError, Code, InvalidRequestError, internal_error, problem
from penchant.service.fold import Fold
from penchant.service.jobs import (
    FeedbackAnswer,
    FeedbackJob,
    Idempotency,
    ReadyEvent,
    event_row,
    feature_rows,
    item_rows,
)
from penchant.service.judged import Judged
from penchant.service.states import StateCache, UserKey, UserState, state_row, user_row
from penchant.service.store import locks, queries, tables, users
from penchant.service.store.queries import LoggedJudgement
from penchant.service.telemetry import log_failure
from penchant.service.trust import TrustPolicy, TrustState, Weighed, weigh

MAX_INLINE_EVENTS: Final = 32
"""So many events of a log are learned while others wait for the commit; a longer way to go is left to the replayer."""


@dataclass
class _Changes:
    """What a job, or a group, changes: states, events and rows that are not in the database yet."""

    states: dict[UserKey, UserState] = field(default_factory=dict)
    answered: dict[tuple[str, str], tuple[bytes, bytes]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    bursts: int = 0
    logs: dict[UserKey, list[LoggedJudgement]] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, other: "_Changes") -> None:
        self.states |= other.states
        self.answered |= other.answered
        for key, log in other.logs.items():
            self.logs.setdefault(key, []).extend(log)
        self.known |= other.known
        for name in ("events", "items", "features", "answers"):
            getattr(self, name).extend(getattr(other, name))


class Ledger:
    """Applies feedback to the log and the states.

    Args:
        fold: Learns.
        cache: Current states of users in memory; the caller publishes to it after the commit.
        answers_ttl_seconds: How long an answer is kept under its idempotency key.
        policy: How much a judgement counts.
    """

    def __init__(
        self, fold: Fold, cache: StateCache, answers_ttl_seconds: float, policy: TrustPolicy
    ) -> None:
        self._fold = fold
        self._cache = cache
        self._answers_ttl_seconds = answers_ttl_seconds
        self._policy = policy

    def apply(
        self, connection: Connection, jobs: Sequence[FeedbackJob], *, again: bool = False
    ) -> tuple[list[FeedbackAnswer | ApiError], dict[UserKey, UserState]]:
        """Writes a group in the caller's transaction.

        Args:
            connection: The transaction.
            jobs: The group.
            again: Whether an earlier try may have been committed all the same.

        Returns:
            An answer for each job, and the states to be published once the transaction is durable.
        """
        group = _Changes()
        self._load(connection, jobs, group, again=again)
        before = dict(group.states)
        answers = [self._apply_job(connection, job, group) for job in jobs]
        changed = {key: state for key, state in group.states.items() if before.get(key) is not state}
        # In the order of their keys: two servers that add the same rows never wait for each other in a circle.
        for table, rows, name in (
            (tables.features, group.features, "feature_key"),
            (tables.judged_items, group.items, "user_id"),
            (tables.feedback_events, group.events, "event_id"),
            (tables.idempotency, group.answers, "key"),
        ):
            queries.add(connection, table, sorted(rows, key=lambda row: (row["tenant"], row[name])))
        users.put_users(connection, [user_row(key, state) for key, state in changed.items()])
        bundle, half_life = self._fold.bundle_version, self._fold.forgetting.half_life_days
        learned = [(key, state) for key, state in changed.items() if state.is_current]
        users.put_states(connection, [state_row(key, state, bundle, half_life) for key, state in learned])
        return answers, changed

    def _load(
        self, connection: Connection, jobs: Sequence[FeedbackJob], group: _Changes, *, again: bool
    ) -> None:
        """Locks the users, then reads what the group needs to know, in few queries: answers, event ids, users."""
        locks.hold_users(connection, [(job.tenant, event.user) for job in jobs for event in job.events])
        for tenant, some in _by_tenant(jobs).items():
            self._load_answers(connection, tenant, some, group)
            events = [event for job in some for event in job.events]
            ids = {event.parsed.event_id for event in events if again or event.parsed.is_callers_id}
            ids |= {event.judged.target for event in events if event.judged and event.judged.target}
            names = {event.user for event in events}
            for event_id, (digest, user) in queries.known_events(connection, tenant, sorted(ids)).items():
                group.known[(tenant, event_id)] = (digest, user)
                names.add(user)
            bundle, half_life = self._fold.bundle_version, self._fold.forgetting.half_life_days
            standings = users.find_standings(connection, tenant, sorted(names), bundle, half_life)
            for user, row in standings.items():
                _, held = self._cache.find((tenant, user))
                same = held is not None and held.stamp == (row.version, row.updated_at)
                known = held if held is not None and same else UserState.from_row(row, self._fold.start)
                group.states[(tenant, user)] = known

    def _load_answers(
        self, connection: Connection, tenant: str, jobs: Iterable[FeedbackJob], group: _Changes
    ) -> None:
        """Answers that were given under the jobs' idempotency keys, here or by another server; old ones make room."""
        asked = {job.idempotency.key: job.received_at for job in jobs if job.idempotency is not None}
        expired = []
        for key, row in queries.find_answers(connection, tenant, sorted(asked)).items():
            if asked[key] - row.created_at > self._answers_ttl_seconds:
                expired.append(key)
            else:
                group.answered[(tenant, key)] = (row.request_hash, row.answer)
        queries.drop_answers(connection, tenant, expired)

    def _apply_job(
        self, connection: Connection, job: FeedbackJob, group: _Changes
    ) -> FeedbackAnswer | ApiError:
        """One request on top of the group so far; merged into it only as a whole."""
        if job.idempotency is not None:
            given = group.answered.get((job.tenant, job.idempotency.key))
            if given is not None:
                return _answered(job.idempotency, *given)
        mine = _Changes()
        rejected, outcomes = list(job.rejected), [("invalid", "rejected")] * len(job.rejected)
        touched: dict[str, None] = {}
        try:
            for event in job.events:
                earlier = _known(event.parsed.event_id, job.tenant, mine, group)
                kind = getattr(event.parsed.event, "type", "")
                if earlier is not None and earlier[0] == event.parsed.content_hash:
                    touched[earlier[1]] = None
                    # An id of our own is in the log where this very request was committed at an earlier try.
                    outcomes.append((kind, "duplicate" if event.parsed.is_callers_id else "accepted"))
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
            mine.answered[(job.tenant, job.idempotency.key)] = (job.idempotency.request_hash, body)
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
        return FeedbackAnswer(body, tuple(outcomes), changes, tuple(mine.flags), mine.bursts)

    def _log(self, job: FeedbackJob, event: ReadyEvent, mine: _Changes, group: _Changes) -> None:
        """One event: its place in the log, and its rows."""
        judged, features, key = event.judged, event.features, (job.tenant, event.user)
        if judged is None:
            raise ValueError("an event without judgement can only be a duplicate")
        state = _state(key, mine, group) or UserState(0, 0, self._fold.start, 0.0)
        seq = state.last_seq + 1
        state = replace(
            state,
            version=state.version + 1,
            feedback_events=state.feedback_events + 1,
            last_seq=seq,
            updated_at=job.received_at,
        )
        weighed = Weighed(1.0)
        if judged.target is None:
            state, weighed = self._weigh(state, judged, job.received_at)
        mine.states[key] = state
        mine.flags += weighed.flags
        mine.bursts += weighed.begins_burst
        mine.known[(job.tenant, event.parsed.event_id)] = (event.parsed.content_hash, event.user)
        legible = features is not None and features.extractor == self._fold.extractor
        logged = LoggedJudgement(
            seq=seq,
            event_id=event.parsed.event_id,
            type=judged.type,
            value=judged.value,
            weight=judged.weight,
            discount=weighed.discount,
            flags=",".join(weighed.flags) or None,
            groups=judged.groups,
            target=judged.target,
            source=judged.source,
            received_at=job.received_at,
            item_keys=features.item_keys if features is not None and legible else (),
            vectors=features.vectors if features is not None and legible else None,
        )
        mine.logs.setdefault(key, []).append(logged)
        mine.events.append(event_row(key, logged, event.parsed.content_hash, judged.payload))
        if features is not None:
            mine.items += item_rows(job.tenant, event.user, seq, features)
            mine.features += feature_rows(job.tenant, features)

    def _weigh(self, state: UserState, judged: Judged, received_at: float) -> tuple[UserState, Weighed]:
        """How much one judgement more of a user counts, decided once and for all."""
        trust = TrustState.read(state.information_day, state.information, state.trust)
        trust, weighed = weigh(trust, judged.weight, judged.groups, received_at, self._policy)
        state = replace(
            state, information_day=trust.day, information=trust.information, trust=trust.to_json()
        )
        return state, weighed

    def _learn(self, connection: Connection, key: UserKey, mine: _Changes, group: _Changes) -> int:
        """What a job's events make of a user's state; returns how many change points they brought to light.

        Where that would hold the others up, or takes the encoder, the state is left behind the log: whoever needs it
        catches up.

        Cost: one step of the fold an event; with a retraction among them, one replay of the user's log. Of at most
        `MAX_INLINE_EVENTS` each, beside the job's own.
        """
        state, new = mine.states[key], mine.logs[key]
        was_current = state.through_seq == new[0].seq - 1
        if was_current and all(event.target is None for event in new):
            unknown, evidence = new, state.evidence
        else:
            start = self._unknown_since(connection, key, state, new, group)
            if new[0].seq - 1 - start > MAX_INLINE_EVENTS:
                return 0
            stored = queries.replay_events(connection, *key, self._fold.extractor, since=start + 1)
            waiting = [event for event in group.logs.get(key, ()) if event.seq > start]
            unknown, evidence = [*stored, *waiting, *new], state.evidence if start else self._fold.start
        if any(event.vectors is None and event.target is None for event in unknown):
            return 0
        learned = self._fold.onward(evidence, unknown)
        mine.states[key] = replace(state, evidence=learned, through_seq=state.last_seq)
        found = learned.posterior.changes - state.evidence.posterior.changes
        if found <= 0 or not was_current:
            return 0
        trust = TrustState.read(state.information_day, state.information, state.trust)
        for _ in range(found):
            trust = trust.changed()
        mine.states[key] = replace(mine.states[key], trust=trust.to_json())
        return found

    def _unknown_since(
        self,
        connection: Connection,
        key: UserKey,
        state: UserState,
        new: Sequence[LoggedJudgement],
        group: _Changes,
    ) -> int:
        """Up to which seq what is known of a user can stay; 0 where something is taken back."""
        targets = [
            event.target for event in (*group.logs.get(key, ()), *new) if event.seq > state.through_seq
        ]
        taken_back = any(target is not None for target in targets)
        if taken_back or queries.has_retraction(connection, *key, since=state.through_seq + 1):
            return 0
        return state.through_seq


def _by_tenant(jobs: Iterable[FeedbackJob]) -> dict[str, list[FeedbackJob]]:
    found: dict[str, list[FeedbackJob]] = {}
    for job in jobs:
        found.setdefault(job.tenant, []).append(job)
    return found


def _answered(idempotency: Idempotency, request_hash: bytes, body: bytes) -> FeedbackAnswer | ApiError:
    """What was answered under this key, here or by another server."""
    if request_hash != idempotency.request_hash:
        return ApiError(Code.IDEMPOTENCY_KEY_REUSED, "A new request needs a new idempotency key.")
    return FeedbackAnswer(body, (), 0)


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
