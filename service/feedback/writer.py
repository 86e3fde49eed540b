"""One thread owns the write connection. What waits at the same time is committed together.

feedback ─┐
others   ─┼→ queue → owner thread: one group, one transaction, fsync → publish states → answers
rankings ─┘          (rankings are gathered for a moment; nobody waits for them)
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from penchant.service.errors import ApiError, OverloadedError, internal_error
from penchant.service.feedback.commits import Commits
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob
from penchant.service.ranking.rankings import Ranking
from penchant.service.settings import Settings
from penchant.service.store.requests import drop_rankings
from penchant.service.telemetry.metrics import Telemetry, log_failure

_PROBE_SECONDS: Final = 1.0  # after a failed write the store is tried this often
Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class Feedback:
    """One request, and who waits for its answer."""

    job: FeedbackJob
    done: "asyncio.Future[FeedbackAnswer]"


@dataclass(frozen=True, eq=False)
class Alone:
    """A transaction of its own, between groups.

    Attributes:
        action: What it is; an `ApiError` where it failed.
        done: Gets what it gave.
    """

    action: Callable[[], Any]
    done: "asyncio.Future[Any]"


@dataclass(frozen=True, eq=False)
class Shown:
    """Rankings to be stored, and what to call then; nobody waits for them."""

    rankings: tuple[Ranking, ...]
    done: tuple[Callable[[], object], ...]


Work = Feedback | Alone | Shown


def weight(work: Work) -> int:
    """How many events it is: what bounds a group."""
    return max(1, len(work.job.events)) if isinstance(work, Feedback) else 1


class Writer:
    """The only writer of the store.

    Args:
        commits: What the thread does.
        settings: Bounds and delays.
        telemetry: Where refusals are counted.
    """

    def __init__(self, commits: Commits, settings: Settings, telemetry: Telemetry) -> None:
        self._commits = commits
        self._settings = settings
        self._telemetry = telemetry
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._queued_events = 0
        self._queued_rankings = 0
        self._shown: list[tuple[Ranking, Callable[[], object]]] = []
        self._held: Work | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._own, name="penchant-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    # On the event loop

    def start(self) -> None:
        """Starts the owner thread; to be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Writes what waits, then ends the thread."""
        self._hand_over_rankings()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def works(self) -> bool:
        """Whether the owner thread runs, and the last write did not fail."""
        return self._thread.is_alive() and not self._commits.failing

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
        self._queue.put(Feedback(job, done))
        try:
            with self._telemetry.tracing.span("commit", events=events):
                return await done
        finally:
            self._queued_events -= events

    async def alone(self, work: Callable[[Connection], Answer], then: Callable[[Answer], None]) -> Answer:
        """Changes the store in a transaction of its own; what was shown before is written before.

        Args:
            work: What is done, on the writer's thread.
            then: Called there once that is durable, before anything else is written.

        Raises:
            ApiError: What `work` raised; `storage_unavailable`.
        """
        self._hand_over_rankings()
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put(Alone(lambda: self._commits.alone(work, then), done))
        return await done

    async def between(self, action: Callable[[], None]) -> None:
        """Runs `action` on the writer's thread between two groups: neither sees half of what it changes."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(Alone(action, done))
        await done

    def erase_rankings(self, tenant: str, rank_ids: Sequence[str]) -> None:
        """Removes rankings from the store, after those that wait to be written; nobody waits for it."""
        self._hand_over_rankings()

        def erase() -> ApiError | None:
            return self._commits.alone(
                lambda connection: drop_rankings(connection, tenant, rank_ids), lambda _: None
            )

        self._queue.put(Alone(erase, asyncio.get_running_loop().create_future()))

    def write_ranking(self, ranking: Ranking, done: Callable[[], object]) -> None:
        """Has a ranking stored soon, then calls `done`; where too many wait it is not stored, and counted."""
        if self._queued_rankings >= self._settings.max_queued_rankings:
            self._telemetry.lost_rankings.inc()
            done()
            return
        self._queued_rankings += 1
        if not self._shown:
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.ranking_write_delay_seconds, self._hand_over_rankings)
        self._shown.append((ranking, done))

    def _hand_over_rankings(self) -> None:
        if self._shown:
            rankings, done = zip(*self._shown, strict=True)
            self._shown.clear()
            self._queue.put(Shown(rankings, done))

    def _leave(self, shown: Sequence[Shown]) -> None:
        for work in shown:
            self._queued_rankings -= len(work.done)
            for done in work.done:
                done()

    # On the owner thread

    def _own(self) -> None:
        while not self._stopping:
            group = self._gather()
            if group:
                self._serve(group)
            self._commits.expire()

    def _gather(self) -> list[Work]:
        """What waits, up to the bound; what is to be alone is."""
        idle = _PROBE_SECONDS if self._commits.failing else self._settings.expiry_interval_seconds
        if self._commits.unfinished:
            idle = 0.0
        first = self._take(idle)
        if first is None or isinstance(first, Alone):
            return [] if first is None else [first]
        group: list[Work] = [first]
        events = weight(first)
        while events < self._settings.max_group_events:
            work = self._take(0.0)
            if work is None:
                break
            if isinstance(work, Alone):
                self._held = work
                break
            group.append(work)
            events += weight(work)
        return group

    def _take(self, timeout: float) -> Work | None:
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

    def _serve(self, group: Sequence[Work]) -> None:
        try:
            self._write(group)
        except Exception as error:  # whatever it is, the thread goes on and nobody waits for ever
            waiting: list[tuple[asyncio.Future[Any], ApiError]] = [
                (work.done, internal_error()) for work in group if not isinstance(work, Shown)
            ]
            self._call(lambda: _resolve(waiting))
            log_failure("writer_thread_failed", error)
        shown = [work for work in group if isinstance(work, Shown)]
        if shown:
            self._call(lambda: self._leave(shown))

    def _write(self, group: Sequence[Work]) -> None:
        if isinstance(group[0], Alone):
            done, answer = group[0].done, group[0].action()
            self._call(lambda: _resolve([(done, answer)]))
            return
        feedback = [work for work in group if isinstance(work, Feedback)]
        rankings = [ranking for work in group if isinstance(work, Shown) for ranking in work.rankings]
        answers = self._commits.group([work.job for work in feedback], rankings)
        resolved = [(work.done, answer) for work, answer in zip(feedback, answers, strict=True)]
        self._call(lambda: _resolve(resolved))

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
