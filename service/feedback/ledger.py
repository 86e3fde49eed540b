"""Applies a group of feedback jobs in one transaction, and decides which events are new, duplicates or conflicts.

A job is one request. It is applied as a whole or not at all, and its failure does not affect the others. All of this
runs on the writer's thread. Another server may just have written the same users, so everything that matters is read
inside the transaction, after the locks are taken. A state in memory is used only if the store has the same version.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from penchant.service.errors import (
    ApiError,
    Code,
    InvalidRequestError,
    build_problem,
    internal_error,
    user_busy_error,
)
from penchant.service.feedback.event_ids import EventIds, load_ids
from penchant.service.feedback.history import bring_up_to_date
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob, Idempotency, ReadyEvent
from penchant.service.feedback.recorder import Changes, Recorder
from penchant.service.feedback.trust import TrustPolicy
from penchant.service.store import users
from penchant.service.store.event_ids import find_received
from penchant.service.store.requests import drop_answers, find_answers
from penchant.service.telemetry.metrics import log_failure
from penchant.service.users.fold import Fold
from penchant.service.users.states import StateCache, UserKey, UserState

Identity = tuple[str, str, bytes]
"""(user, event id, content hash) of an event of a request."""


class Ledger:
    """Applies feedback to the log and to users' states.

    Args:
        fold: Fold that computes states.
        cache: Cache of states. The caller publishes the new ones after the commit.
        answers_ttl_seconds: How long an answer is stored under its idempotency key.
        policy: Limits that decide how much a judgement counts.
        limit_time: Function that returns the time by which an answer may have expired, given the clock's.
    """

    def __init__(
        self,
        fold: Fold,
        cache: StateCache,
        answers_ttl_seconds: float,
        policy: TrustPolicy,
        limit_time: Callable[[float], float],
    ) -> None:
        self._fold = fold
        self._cache = cache
        self._answers_ttl_seconds = answers_ttl_seconds
        self._limit_time = limit_time
        self._recorder = Recorder(fold, policy)

    def apply(
        self, connection: Connection, jobs: Sequence[FeedbackJob], *, may_be_committed: bool = False
    ) -> tuple[list[FeedbackAnswer | ApiError], dict[UserKey, UserState]]:
        """Write a group of jobs in the caller's transaction.

        Args:
            connection: Connection in a write transaction.
            jobs: Jobs of the group, in order of arrival.
            may_be_committed: Whether an earlier attempt may have been committed despite an error.

        Returns:
            An answer for each job, and the states to publish when the transaction is durable.
        """
        group_changes = Changes()
        self._load(connection, jobs, group_changes)
        before = dict(group_changes.states)
        written = [_find_written(connection, job) if may_be_committed else frozenset() for job in jobs]
        answers = [
            self._apply_job(connection, job, own, group_changes)
            for job, own in zip(jobs, written, strict=True)
        ]
        changed = {key: state for key, state in group_changes.states.items() if before.get(key) is not state}
        group_changes.write(connection, changed, self._fold)
        return answers, changed

    def _load(self, connection: Connection, jobs: Sequence[FeedbackJob], group_changes: Changes) -> None:
        """Lock the users, then read the answers, event ids and users that the group depends on, in a few queries."""
        users.lock_users(connection, [(job.tenant, event.user) for job in jobs for event in job.events])
        for tenant, tenant_jobs in _group_by_tenant(jobs).items():
            self._load_answers(connection, tenant, tenant_jobs, group_changes)
            events = [event for job in tenant_jobs for event in job.events]
            ids = _load_ids(connection, tenant, events)
            group_changes.ids.merge(ids)
            names = {event.user for event in events} | ids.users
            bundle, half_life = self._fold.bundle_version, self._fold.forgetting.half_life_days
            rows = users.find_users(connection, tenant, sorted(names), bundle, half_life, with_deleted=True)
            for user, row in rows.items():
                if row.pending is not None:
                    group_changes.busy.add((tenant, user))
                _, cached = self._cache.find((tenant, user))
                is_same = cached is not None and cached.stamp == (row.version, row.updated_at)
                state = (
                    cached if cached is not None and is_same else UserState.from_row(row, self._fold.start)
                )
                group_changes.states[(tenant, user)] = state
            self._load_history(connection, tenant, tenant_jobs, group_changes)

    def _load_history(
        self, connection: Connection, tenant: str, jobs: Iterable[FeedbackJob], group_changes: Changes
    ) -> None:
        """Bring what the jobs read of their users' history up to date."""
        for job in jobs:
            for user, read in job.history.items():
                state = group_changes.states.get((tenant, user))
                stamp = (0, 0) if state is None else (state.version, state.last_seq)
                for day, learned in bring_up_to_date(connection, tenant, user, read, stamp).items():
                    group_changes.history[(tenant, user, day)] = learned

    def _load_answers(
        self, connection: Connection, tenant: str, jobs: Iterable[FeedbackJob], group_changes: Changes
    ) -> None:
        """Read the answers stored under the jobs' idempotency keys, by any server, and delete the expired ones."""
        keys = {job.idempotency.key: job.received_at for job in jobs if job.idempotency is not None}
        if not keys:
            return
        expired = []
        for key, row in find_answers(connection, tenant, sorted(keys)).items():
            if self._limit_time(keys[key]) - row.created_at > self._answers_ttl_seconds:
                expired.append(key)
            else:
                group_changes.answered[(tenant, key)] = (row.request_hash, row.answer)
        drop_answers(connection, tenant, expired)

    def _apply_job(
        self, connection: Connection, job: FeedbackJob, written: frozenset[Identity], group_changes: Changes
    ) -> FeedbackAnswer | ApiError:
        """Apply one request on top of the group so far, and merge its changes into the group only if it succeeds.

        Args:
            connection: Connection in a write transaction.
            job: The request.
            written: Its events that an earlier attempt has written. If there are any, nothing is left to be done.
            group_changes: Changes of the jobs before it.
        """
        if job.idempotency is not None:
            stored = group_changes.answered.get((job.tenant, job.idempotency.key))
            if stored is not None:
                return _check_stored_answer(job.idempotency, *stored)
        job_changes = Changes(ids=EventIds(group_changes.ids))
        if (busy := _find_busy_user(job, group_changes)) is not None:
            return user_busy_error(busy)
        rejected, outcomes = list(job.rejected), [("invalid", "rejected")] * len(job.rejected)
        affected: dict[str, None] = {}
        try:
            for event in job.events:
                received = event.received
                earlier = job_changes.ids.find_in_force(job.tenant, received.event_id)
                is_repeated = earlier is not None and earlier.content_hash == received.content_hash
                if is_repeated or _identify(event) in written:
                    affected[event.user if earlier is None else earlier.user] = None
                    # An event that was written with an id of our own is not known to the caller yet.
                    outcomes.append((received.type, "duplicate" if received.is_callers_id else "accepted"))
                elif (
                    fault := _build_conflict_error(event)
                    if earlier
                    else _find_fault(job, event, job_changes.ids)
                ):
                    rejected.append((received.index, fault))
                    outcomes.append((received.type, "rejected"))
                elif written:  # it was a duplicate of an event that this request retracted afterwards
                    affected[event.user] = None
                    outcomes.append((received.type, "duplicate"))
                else:
                    self._recorder.record(job, event, job_changes, group_changes)
                    affected[event.user] = None
                    outcomes.append((received.type, "accepted"))
            change_points = sum(
                self._recorder.learn(connection, key, job_changes, group_changes) for key in job_changes.logs
            )
        except SQLAlchemyError:  # the store failed, not this job
            raise
        except Exception as error:
            log_failure("learning_failed", error, types=sorted({kind for kind, _ in outcomes}))
            return internal_error()
        if job.is_bare and rejected:
            return rejected[0][1]
        states = {
            user: job_changes.states.get((job.tenant, user)) or group_changes.states.get((job.tenant, user))
            for user in affected
        }
        body = _build_answer(Counter(outcome for _, outcome in outcomes), rejected, states)
        if job.idempotency is not None:
            key = job.idempotency.key
            job_changes.answered[(job.tenant, key)] = (job.idempotency.request_hash, body)
            job_changes.answers.append(
                {
                    "tenant": job.tenant,
                    "key": key,
                    "request_hash": job.idempotency.request_hash,
                    "answer": body,
                    "created_at": job.received_at,
                }
            )
            job_changes.answered_users += [
                {"tenant": job.tenant, "user_id": user, "key": key} for user in affected
            ]
        group_changes.merge(job_changes)
        return FeedbackAnswer(
            body, tuple(outcomes), change_points, tuple(job_changes.flags), job_changes.bursts
        )


def _find_busy_user(job: FeedbackJob, group_changes: Changes) -> str | None:
    """Return a user whose log is being merged or deleted: one who judged, or one who holds one of its ids."""
    for event in job.events:
        named = group_changes.ids.find(job.tenant, event.received.event_id)
        for user in (event.user, event.user if named is None else named.user):
            if (job.tenant, user) in group_changes.busy:
                return user
    return None


def _group_by_tenant(jobs: Iterable[FeedbackJob]) -> dict[str, list[FeedbackJob]]:
    by_tenant: dict[str, list[FeedbackJob]] = {}
    for job in jobs:
        by_tenant.setdefault(job.tenant, []).append(job)
    return by_tenant


def _load_ids(connection: Connection, tenant: str, events: Sequence[ReadyEvent]) -> EventIds:
    """Return the logged events that ids of a tenant's new events name, and lock the users whose events may be replaced.

    These locks are taken late, so that transactions can deadlock. One of them then fails, and is tried again.
    """
    sent = {event.received.event_id for event in events if event.received.is_callers_id}
    targets = {event.target for event in events if event.target}
    locked = {event.user for event in events}
    ids = load_ids(connection, tenant, sent, targets)
    while others := ids.retracted_users - locked:
        users.lock_users(connection, [(tenant, user) for user in others])
        locked |= others
        ids = load_ids(connection, tenant, sent, targets)
    return ids


def _identify(event: ReadyEvent) -> Identity:
    """Return what tells the events of one request apart."""
    return event.user, event.received.event_id, event.received.content_hash


def _find_written(connection: Connection, job: FeedbackJob) -> frozenset[Identity]:
    """Return those of a job's events that are in the log, because an earlier attempt to write them was committed."""
    received = find_received(connection, job.tenant, job.received_at)
    return frozenset(received.intersection(map(_identify, job.events)))


def _check_stored_answer(
    idempotency: Idempotency, request_hash: bytes, body: bytes
) -> FeedbackAnswer | ApiError:
    """Return the answer stored under an idempotency key, or an error if it answered another request."""
    if request_hash != idempotency.request_hash:
        return ApiError(Code.IDEMPOTENCY_KEY_REUSED, "A new request needs a new idempotency key.")
    return FeedbackAnswer(body, (), 0)


def _build_conflict_error(event: ReadyEvent) -> ApiError:
    fault = "The log has an event with this id and different content."
    return InvalidRequestError((f"{event.received.pointer}/event_id", fault), code=Code.EVENT_ID_CONFLICT)


def _find_fault(job: FeedbackJob, event: ReadyEvent, ids: EventIds) -> ApiError | None:
    """Return the error for which a new event cannot be logged, if any."""
    if event.fault is not None or event.target is None:
        return event.fault
    target = ids.find_target(job.tenant, event.target, event.received.event_id)
    if target is not None and target.user == event.user:
        return None
    pointer = f"{event.received.pointer}/target_event_id"
    return InvalidRequestError(
        (pointer, "The user's log has no event with this id."), code=Code.EVENT_NOT_FOUND
    )


def _build_answer(
    counts: Counter[str], rejected: list[tuple[int, ApiError]], states: dict[str, UserState | None]
) -> bytes:
    return orjson.dumps(
        {
            "accepted": counts["accepted"],
            "duplicates": counts["duplicate"],
            "rejected": [
                {"index": index, "problem": build_problem(error)}
                for index, error in sorted(rejected, key=lambda rejection: rejection[0])
            ],
            "users": [
                {"user": user, "posterior_version": state.version, "feedback_events": state.feedback_events}
                for user, state in states.items()
                if state is not None
            ],
        }
    )
