"""One group of feedback, from jobs to rows: what is duplicate, what conflicts, what is learned.

A group is one transaction. A job is one request: applied whole or not at all; its failure harms no other.
The writer's thread runs this. On a shared store another server may have written the same users a moment ago: all that
matters is read in the transaction, after the locks; memory serves where the store says that it is the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from penchant.service.errors import ApiError, Code, InvalidRequestError, internal_error, problem
from penchant.service.feedback.apply import Lessons
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob, Idempotency, ReadyEvent
from penchant.service.feedback.trust import TrustPolicy
from penchant.service.feedback.unit_of_work import Changes, known_event, state_of
from penchant.service.store import users
from penchant.service.store.events import find_hashes
from penchant.service.store.requests import drop_answers, find_answers
from penchant.service.telemetry.metrics import log_failure
from penchant.service.users.fold import Fold
from penchant.service.users.states import StateCache, UserKey, UserState


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
        self._lessons = Lessons(fold, policy)

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
        group = Changes()
        self._load(connection, jobs, group, again=again)
        before = dict(group.states)
        answers = [self._apply_job(connection, job, group) for job in jobs]
        changed = {key: state for key, state in group.states.items() if before.get(key) is not state}
        group.write(connection, changed, self._fold)
        return answers, changed

    def _load(
        self, connection: Connection, jobs: Sequence[FeedbackJob], group: Changes, *, again: bool
    ) -> None:
        """Locks the users, then reads what the group needs to know, in few queries: answers, event ids, users."""
        users.lock_users(connection, [(job.tenant, event.user) for job in jobs for event in job.events])
        for tenant, some in _by_tenant(jobs).items():
            self._load_answers(connection, tenant, some, group)
            events = [event for job in some for event in job.events]
            ids = {event.parsed.event_id for event in events if again or event.parsed.is_callers_id}
            ids |= {event.judged.target for event in events if event.judged and event.judged.target}
            names = {event.user for event in events}
            for event_id, (digest, user) in find_hashes(connection, tenant, sorted(ids)).items():
                group.known[(tenant, event_id)] = (digest, user)
                names.add(user)
            bundle, half_life = self._fold.bundle_version, self._fold.forgetting.half_life_days
            standings = users.find_users(connection, tenant, sorted(names), bundle, half_life)
            for user, row in standings.items():
                _, held = self._cache.find((tenant, user))
                same = held is not None and held.stamp == (row.version, row.updated_at)
                known = held if held is not None and same else UserState.from_row(row, self._fold.start)
                group.states[(tenant, user)] = known

    def _load_answers(
        self, connection: Connection, tenant: str, jobs: Iterable[FeedbackJob], group: Changes
    ) -> None:
        """Answers that were given under the jobs' idempotency keys, here or by another server; old ones make room."""
        asked = {job.idempotency.key: job.received_at for job in jobs if job.idempotency is not None}
        expired = []
        for key, row in find_answers(connection, tenant, sorted(asked)).items():
            if asked[key] - row.created_at > self._answers_ttl_seconds:
                expired.append(key)
            else:
                group.answered[(tenant, key)] = (row.request_hash, row.answer)
        drop_answers(connection, tenant, expired)

    def _apply_job(
        self, connection: Connection, job: FeedbackJob, group: Changes
    ) -> FeedbackAnswer | ApiError:
        """One request on top of the group so far; merged into it only as a whole."""
        if job.idempotency is not None:
            given = group.answered.get((job.tenant, job.idempotency.key))
            if given is not None:
                return _answered(job.idempotency, *given)
        mine = Changes()
        rejected, outcomes = list(job.rejected), [("invalid", "rejected")] * len(job.rejected)
        touched: dict[str, None] = {}
        try:
            for event in job.events:
                earlier = known_event(event.parsed.event_id, job.tenant, mine, group)
                kind = getattr(event.parsed.event, "type", "")
                if earlier is not None and earlier[0] == event.parsed.content_hash:
                    touched[earlier[1]] = None
                    # An id of our own is in the log where this very request was committed at an earlier try.
                    outcomes.append((kind, "duplicate" if event.parsed.is_callers_id else "accepted"))
                elif fault := _conflict(event) if earlier else _fault(job, event, mine, group):
                    rejected.append((event.parsed.index, fault))
                    outcomes.append((kind, "rejected"))
                else:
                    self._lessons.log(job, event, mine, group)
                    touched[event.user] = None
                    outcomes.append((kind, "accepted"))
            changes = sum(self._lessons.learn(connection, key, mine, group) for key in mine.logs)
        except SQLAlchemyError:  # the log could not be read: that is no fault of this job's
            raise
        except Exception as error:
            log_failure("learning_failed", error, types=sorted({kind for kind, _ in outcomes}))
            return internal_error()
        if job.bare and rejected:
            return rejected[0][1]
        states = {user: state_of((job.tenant, user), mine, group) for user in touched}
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


def _conflict(event: ReadyEvent) -> ApiError:
    fault = "An event with this id and other content is in the log."
    return InvalidRequestError((f"{event.parsed.pointer}/event_id", fault), code=Code.EVENT_ID_CONFLICT)


def _fault(job: FeedbackJob, event: ReadyEvent, mine: Changes, group: Changes) -> ApiError | None:
    """Why an event that is new cannot be logged."""
    if event.judged is None or event.judged.target is None:
        return event.fault
    target = known_event(event.judged.target, job.tenant, mine, group)
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
