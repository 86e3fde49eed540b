"""One thread owns the write connection. What waits at the same time is committed together.

feedback ─┐
deletion ─┼→ queue → owner thread: one group, one transaction, fsync → publish states → answers
rankings ─┘          (rankings wait a little for company; nobody waits for them)
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson
from sqlalchemy.exc import SQLAlchemyError

from penchant.service.errors import ApiError, Code, OverloadedError, internal_error
from penchant.service.ledger import FeedbackAnswer, FeedbackJob, Ledger
from penchant.service.rankings import Ranking
from penchant.service.settings import Settings
from penchant.service.states import StateCache
from penchant.service.store import queries, tables
from penchant.service.store.database import Database
from penchant.service.telemetry import Telemetry, log_failure

_HOUR: Final = 3600.0
_PROBE_SECONDS: Final = 1.0  # after a failed write the store is tried this often
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Deleted:
    """What a deletion removed.

    Attributes:
        feature_keys: Features that nobody needs any more.
        shown: What the user's rankings had shown, as stored.
    """

    feature_keys: tuple[bytes, ...]
    shown: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class _Feedback:
    job: FeedbackJob
    done: "asyncio.Future[FeedbackAnswer]"


@dataclass(frozen=True, eq=False)
class _Deletion:
    tenant: str
    user: str
    done: "asyncio.Future[Deleted]"


@dataclass(frozen=True, eq=False)
class _Shown:
    ranking: Ranking
    done: Callable[[], object]


_Task = _Feedback | _Deletion | _Shown


class Writer:
    """The only writer of the store.

    Args:
        database: The store.
        ledger: Learns from feedback.
        cache: Where committed states become visible.
        settings: Bounds, delays, times to live.
        telemetry: Where commits are counted.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        cache: StateCache,
        settings: Settings,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._cache = cache
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._held: _Task | None = None
        self._stopping = False
        self._queued_events = 0
        self._queued_rankings = 0
        self._next_expiry = 0.0
        self._thread = threading.Thread(target=self._own, name="penchant-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failing = False

    # On the event loop

    def start(self) -> None:
        """Starts the owner thread; to be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Writes what waits, then ends the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        """Whether the owner thread runs."""
        return self._thread.is_alive()

    async def feedback(self, job: FeedbackJob) -> FeedbackAnswer:
        """Logs and learns; returns when that is durable and visible.

        Raises:
            OverloadedError: Too many events wait.
            ApiError: `storage_unavailable` (nothing was stored), or the rejection of a bare event.
        """
        limit, events = self._settings.max_queued_events, max(1, len(job.events))
        if self._queued_events and self._queued_events + events > limit:
            self._telemetry.overloads.labels("feedback").inc()
            raise OverloadedError("feedback", limit, 1.0)
        done: asyncio.Future[FeedbackAnswer] = asyncio.get_running_loop().create_future()
        self._queued_events += events
        self._queue.put(_Feedback(job, done))
        try:
            return await done
        finally:
            self._queued_events -= events

    async def delete_user(self, tenant: str, user: str) -> Deleted:
        """Removes a user; returns when that is durable.

        Raises:
            ApiError: `storage_unavailable`.
        """
        done: asyncio.Future[Deleted] = asyncio.get_running_loop().create_future()
        self._queue.put(_Deletion(tenant, user, done))
        return await done

    def write_ranking(self, ranking: Ranking, done: Callable[[], object]) -> None:
        """Has a ranking stored soon, then calls `done`; where too many wait it is not stored, and counted."""
        if self._queued_rankings >= self._settings.max_queued_rankings:
            self._telemetry.lost_rankings.inc()
            done()
            return
        self._queued_rankings += 1
        self._queue.put(_Shown(ranking, done))

    def _leave(self, shown: Sequence[_Shown]) -> None:
        self._queued_rankings -= len(shown)
        for work in shown:
            work.done()

    # On the owner thread

    def _own(self) -> None:
        while not self._stopping:
            group = self._gather()
            if group:
                self._serve(group)
            if self.failing or self._clock() >= self._next_expiry:
                self._next_expiry = self._clock() + self._settings.expiry_interval_seconds
                self._expire()

    def _gather(self) -> list[_Task]:
        """What waits, up to the bound; a deletion is always alone."""
        first = self._take(_PROBE_SECONDS if self.failing else self._settings.expiry_interval_seconds)
        if first is None or isinstance(first, _Deletion):
            return [] if first is None else [first]
        group: list[_Task] = [first]
        feedback = isinstance(first, _Feedback)
        deadline = time.monotonic() + self._settings.ranking_write_delay_seconds
        while len(group) < self._settings.max_group_events:
            work = self._take(0.0 if feedback else max(0.0, deadline - time.monotonic()))
            if work is None:
                break
            if isinstance(work, _Deletion):
                self._held = work
                break
            feedback = feedback or isinstance(work, _Feedback)
            group.append(work)
        return group

    def _take(self, timeout: float) -> _Task | None:
        """The next work; None after `timeout` seconds, or when it was told to stop."""
        if self._held is not None:
            held, self._held = self._held, None
            return held
        if self._stopping:
            return None
        try:
            work = self._queue.get(timeout=timeout) if timeout > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        self._stopping = work is None
        return work

    def _serve(self, group: Sequence[_Task]) -> None:
        try:
            self._write(group)
        except Exception as error:  # whatever it is, the thread goes on and nobody waits for ever
            waiting: list[tuple[asyncio.Future[Any], ApiError]] = [
                (work.done, internal_error()) for work in group if not isinstance(work, _Shown)
            ]
            self._call(lambda: _resolve(waiting))
            log_failure("writer_thread_failed", error)
        shown = [work for work in group if isinstance(work, _Shown)]
        if shown:
            self._call(lambda: self._leave(shown))

    def _write(self, group: Sequence[_Task]) -> None:
        if isinstance(group[0], _Deletion):
            self._delete(group[0])
            return
        feedback = [work for work in group if isinstance(work, _Feedback)]
        rankings = [work.ranking for work in group if isinstance(work, _Shown)]
        answers: Sequence[FeedbackAnswer | ApiError]
        try:
            answers = self._commit(feedback, rankings)
        except Exception as error:
            if len(group) > 1:  # find the one to blame; the others must not suffer
                for work in group:
                    self._write([work])
                return
            failure = self._failure(error)
            answers = [failure for _ in feedback]
            self._telemetry.lost_rankings.inc(len(rankings))
        resolved = [(work.done, answer) for work, answer in zip(feedback, answers, strict=True)]
        self._call(lambda: _resolve(resolved))

    def _commit(
        self, feedback: Sequence[_Feedback], rankings: Sequence[Ranking]
    ) -> list[FeedbackAnswer | ApiError]:
        started = time.perf_counter()
        with self._database.writing() as connection:
            answers, states = self._ledger.apply(connection, [work.job for work in feedback])
            queries.add(connection, tables.rankings, [ranking.row() for ranking in rankings])
        self.failing = False
        for key, state in states.items():
            self._cache.publish(key, state)
        self._telemetry.commit_seconds.observe(time.perf_counter() - started)
        self._telemetry.group_events.observe(sum(len(work.job.events) for work in feedback))
        return answers

    def _delete(self, work: _Deletion) -> None:
        answer: Deleted | ApiError
        try:
            with self._database.writing() as connection:
                quoted = orjson.dumps(work.user).decode()
                keys, shown = queries.delete_user(connection, work.tenant, work.user, quoted)
            self.failing = False
            self._cache.publish((work.tenant, work.user), None)
            answer = Deleted(tuple(keys), tuple(shown))
        except Exception as error:
            answer = self._failure(error)
        self._call(lambda: _resolve([(work.done, answer)]))

    def _expire(self) -> None:
        now, settings = self._clock(), self._settings
        try:
            with self._database.writing() as connection:
                removed = queries.expire(
                    connection,
                    rankings_before=now - settings.rank_ttl_hours * _HOUR,
                    answers_before=now - settings.idempotency_ttl_hours * _HOUR,
                )
            self.failing = False
            self._telemetry.expired_rows.inc(removed)
        except Exception as error:
            self._failure(error)

    def _failure(self, error: Exception) -> ApiError:
        self.failing = True
        log_failure("write_failed", error)
        if isinstance(error, SQLAlchemyError | OSError):
            detail = "Nothing of this request was stored; it can be sent again."
            return ApiError(Code.STORAGE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
        return internal_error()

    def _call(self, action: Callable[[], None]) -> None:
        if self._loop is None:
            raise RuntimeError("the writer was not started")
        self._loop.call_soon_threadsafe(action)


def _resolve(answers: Sequence[tuple["asyncio.Future[Answer]", Answer | ApiError]]) -> None:
    for done, answer in answers:
        if done.done():  # its request was cancelled
            continue
        if isinstance(answer, ApiError):
            done.set_exception(answer)
        else:
            done.set_result(answer)
