"""The thread that owns the write connection. Requests that wait at the same time are committed together.

feedback ─┐
others   ─┼→ queue → owner thread: one group, one transaction, fsync → publish states → answers
rankings ─┘          (rankings are gathered for a moment, and no request waits for them)
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from penchant.service.errors import ApiError, OverloadedError, internal_error
from penchant.service.feedback.commits import Commits
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob
from penchant.service.feedback.work import (
    ExclusiveWork,
    FeedbackWork,
    RankingWork,
    Work,
    WorkQueue,
    split_rankings,
)
from penchant.service.ranking.rankings import Ranking
from penchant.service.settings import Settings
from penchant.service.store.requests import drop_rankings
from penchant.service.telemetry.metrics import Telemetry, log_failure

_PROBE_SECONDS: Final = 1.0  # interval at which the store is tried after a failed write
_FATAL_LIMITS: Final = 6.0  # a write that takes so many time limits of the store will never end
Result = TypeVar("Result")


class Writer:
    """The only writer of the store.

    Args:
        commits: Transactions that the owner thread runs.
        settings: Limits and delays.
        telemetry: Telemetry that counts refusals.
    """

    def __init__(self, commits: Commits, settings: Settings, telemetry: Telemetry) -> None:
        self._commits = commits
        self._settings = settings
        self._telemetry = telemetry
        self._queue = WorkQueue(settings.max_group_events, settings.max_group_bytes)
        self._queued_events = self._queued_event_bytes = 0
        self._queued_rankings = self._queued_ranking_bytes = 0
        self._gathered_rankings: list[tuple[Ranking, Callable[[], object]]] = []
        self._busy_since: float | None = None  # start of the current transaction, on the monotonic clock
        self._thread = threading.Thread(target=self._run, name="penchant-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    # On the event loop

    def start(self) -> None:
        """Start the owner thread. Call this on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float | None = None) -> bool:
        """Write everything that is queued, then stop the thread. Return whether it has ended.

        Args:
            seconds: Longest wait. None: as long as it takes.
        """
        self._enqueue_rankings()
        self._queue.close()
        await asyncio.to_thread(self._thread.join, seconds)
        return not self._thread.is_alive()

    def find_fault(self) -> str | None:
        """Return why feedback cannot be written now, or None."""
        if not self._thread.is_alive():
            return "the writer's thread has ended"
        if (seconds := self._busy_seconds()) > self._settings.store_timeout_seconds:
            return f"a write has been running for {seconds:.0f} s"
        return "the last write failed" if self._commits.is_failing else None

    def find_fatal_fault(self) -> str | None:
        """Return why feedback can never be written again by this process, or None."""
        is_stuck = self._busy_seconds() > _FATAL_LIMITS * self._settings.store_timeout_seconds
        return self.find_fault() if is_stuck or not self._thread.is_alive() else None

    def _busy_seconds(self) -> float:
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def write_feedback(self, job: FeedbackJob) -> FeedbackAnswer:
        """Log a request's events and learn from them. Return as soon as the result is durable and visible.

        Raises:
            OverloadedError: If too many events are queued.
            ApiError: If the store cannot be written (`storage_unavailable`, and nothing was stored), or if a bare event
                is rejected.
        """
        settings, events, size = self._settings, max(1, len(job.events)), job.size
        is_full = (
            self._queued_events + events > settings.max_queued_events
            or self._queued_event_bytes + size > settings.max_queued_event_bytes
        )
        if self._queued_events and is_full:
            self._telemetry.overloads.labels("feedback").inc()
            raise OverloadedError("feedback", settings.max_queued_events, 1.0)
        future: asyncio.Future[FeedbackAnswer] = asyncio.get_running_loop().create_future()
        self._queued_events += events
        self._queued_event_bytes += size
        self._queue.put(FeedbackWork(job, future))
        try:
            with self._telemetry.tracing.span("commit", events=events):
                return await future
        finally:
            self._queued_events -= events
            self._queued_event_bytes -= size

    async def commit(
        self, work: Callable[[Connection], Result], on_commit: Callable[[Result], None]
    ) -> Result:
        """Change the store in a transaction of its own, after all rankings that were answered before.

        Args:
            work: Function that makes the changes, on the owner thread.
            on_commit: Function that receives the result there as soon as it is durable, before anything else is written.

        Raises:
            ApiError: If `work` raises it, or if the store cannot be written (`storage_unavailable`).
        """
        self._enqueue_rankings()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put(ExclusiveWork(lambda: self._commits.commit(work, on_commit), future))
        return await future

    async def run_between_groups(self, action: Callable[[], None]) -> None:
        """Run an action on the owner thread between two groups, so that no group sees it half done."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(ExclusiveWork(action, future))
        await future

    def erase_rankings(self, tenant: str, rank_ids: Sequence[str]) -> None:
        """Delete rankings from the store, after those that are queued. This does not wait."""
        self._enqueue_rankings()

        def erase() -> ApiError | None:
            return self._commits.commit(
                lambda connection: drop_rankings(connection, tenant, rank_ids), lambda _: None
            )

        self._queue.put(ExclusiveWork(erase, asyncio.get_running_loop().create_future()))

    def write_ranking(self, ranking: Ranking, callback: Callable[[], object]) -> None:
        """Store a ranking soon, then call `callback`. If too many are queued, it is counted as lost instead."""
        settings = self._settings
        is_full = (
            self._queued_rankings >= settings.max_queued_rankings
            or self._queued_ranking_bytes + ranking.size > settings.max_queued_ranking_bytes
        )
        if self._queued_rankings and is_full:
            self._telemetry.lost_rankings.inc()
            callback()
            return
        self._queued_rankings += 1
        self._queued_ranking_bytes += ranking.size
        if not self._gathered_rankings:
            loop = asyncio.get_running_loop()
            loop.call_later(settings.ranking_write_delay_seconds, self._enqueue_rankings)
        self._gathered_rankings.append((ranking, callback))

    def _enqueue_rankings(self) -> None:
        gathered, self._gathered_rankings = self._gathered_rankings, []
        for work in split_rankings(gathered, self._settings.max_group_bytes // 2):
            self._queue.put(work)

    def _finish_rankings(self, group: Sequence[RankingWork]) -> None:
        for work in group:
            self._queued_rankings -= len(work.callbacks)
            self._queued_ranking_bytes -= work.size
            for callback in work.callbacks:
                callback()
        self._commits.quota.measure_due()

    # On the owner thread

    def _run(self) -> None:
        while not self._queue.is_finished:
            group = self._collect_group()
            self._busy_since = time.monotonic()
            if group:
                self._process(group)
                self._busy_since = time.monotonic()
            self._commits.expire()
            self._busy_since = None

    def _collect_group(self) -> list[Work]:
        """Return the work of the next transaction. Return none if it is time for something else first."""
        timeout = _PROBE_SECONDS if self._commits.is_failing else self._settings.expiry_interval_seconds
        return self._queue.take_group(0.0 if self._commits.has_unfinished_chores else timeout)

    def _process(self, group: Sequence[Work]) -> None:
        try:
            self._write(group)
        except Exception as error:  # the thread must go on, and no request may wait forever
            answers: list[tuple[asyncio.Future[Any], ApiError]] = [
                (work.future, internal_error()) for work in group if not isinstance(work, RankingWork)
            ]
            self._call_on_loop(lambda: _resolve(answers))
            log_failure("writer_thread_failed", error)
        rankings = [work for work in group if isinstance(work, RankingWork)]
        if rankings:
            self._call_on_loop(lambda: self._finish_rankings(rankings))

    def _write(self, group: Sequence[Work]) -> None:
        if isinstance(group[0], ExclusiveWork):
            future, result = group[0].future, group[0].action()
            self._call_on_loop(lambda: _resolve([(future, result)]))
            return
        feedback = [work for work in group if isinstance(work, FeedbackWork)]
        rankings = [ranking for work in group if isinstance(work, RankingWork) for ranking in work.rankings]
        answers = self._commits.commit_group([work.job for work in feedback], rankings)
        resolved = [(work.future, answer) for work, answer in zip(feedback, answers, strict=True)]
        self._call_on_loop(lambda: _resolve(resolved))

    def _call_on_loop(self, action: Callable[[], None]) -> None:
        if self._loop is None:
            raise RuntimeError("The writer is not started.")
        self._loop.call_soon_threadsafe(action)


def _resolve(results: Sequence[tuple["asyncio.Future[Result]", Result | ApiError]]) -> None:
    for future, result in results:
        if future.done():  # its request was cancelled
            continue
        if isinstance(result, ApiError):
            future.set_exception(result)
        else:
            future.set_result(result)
