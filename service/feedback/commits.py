"""The transactions of the writer's thread: groups of feedback, single changes, and the removal of expired rows."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from penchant.service.errors import ApiError, internal_error, storage_error
from penchant.service.feedback.chores import Chore
from penchant.service.feedback.expiry import RankingQuota
from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob
from penchant.service.feedback.ledger import Ledger
from penchant.service.ranking.rankings import Ranking
from penchant.service.settings import Settings
from penchant.service.store import tables
from penchant.service.store.database import (
    Store,
    is_contention,
    is_lost_connection,
    is_unreachable,
)
from penchant.service.store.keys import drop_older_usage
from penchant.service.store.statements import add
from penchant.service.telemetry.metrics import Telemetry, log, log_failure
from penchant.service.users.replayer import Replayer
from penchant.service.users.states import StateCache, UserKey, UserState

_DAY: Final = 86_400.0
_USAGE_DAYS: Final = 31  # how long a tenant's daily usage is kept
_NOTHING_STORED: Final = "Nothing of this request was stored. Send it again."
_UNCERTAIN: Final = "Send it again with the same event ids or `Idempotency-Key`, so that it counts only once."
_RETRY_DELAYS_SECONDS: Final = (0.0, 0.05, 0.2)  # after contention with another server, or a lost connection
_RETRY_LIMITS: Final = 1.5  # no further attempt after so many time limits of the store
Result = TypeVar("Result")


class LearningModel(Protocol):
    """The part of a served model that a commit uses."""

    @property
    def ledger(self) -> Ledger:
        """Ledger that writes feedback and returns the changed states."""

    @property
    def cache(self) -> StateCache:
        """Cache in which committed states become visible."""

    @property
    def replayer(self) -> Replayer:
        """Replayer that catches up the states which a commit left behind the log."""


class Models(Protocol):
    """The part of a server's models that a commit uses."""

    @property
    def current(self) -> LearningModel:
        """Model that ranks and learns."""


class Commits:
    """Runs write transactions, and publishes states as soon as they are durable.

    Args:
        store: The store.
        models: Models of this server. The current one learns.
        chores: Removals that are done whenever rows expire.
        quota: Quota of stored rankings, whose removals are done whenever a tenant exceeds it.
        settings: Times to live.
        telemetry: Telemetry that counts commits.

    Attributes:
        quota: Quota of stored rankings.
        is_failing: Whether the last attempt to write failed.
        has_unfinished_chores: Whether a chore has more to do right away.
    """

    def __init__(
        self,
        *,
        store: Store,
        models: Models,
        chores: Sequence[Chore],
        quota: RankingQuota,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._models = models
        self._chores = (*chores, quota)
        self.quota = quota
        self._settings = settings
        self._telemetry = telemetry
        self._tried_at, self._expired_at = -math.inf, 0.0
        self._is_clock_disputed = False
        self.is_failing = False
        self.has_unfinished_chores = True  # an earlier server may have left some

    def commit_group(
        self, jobs: Sequence[FeedbackJob], rankings: Sequence[Ranking]
    ) -> Sequence[FeedbackAnswer | ApiError]:
        """Commit the feedback of several requests, and rankings, in one transaction. Return an answer for each job.

        If the transaction fails, each job is tried in a transaction of its own, so that one faulty job does not fail
        the others.
        """
        started = time.perf_counter()
        try:
            answers, states = self._write(jobs, rankings)
        except Exception as error:
            if len(jobs) + bool(rankings) > 1 and not is_unreachable(error):
                self.commit_group([], rankings)
                return [answer for job in jobs for answer in self.commit_group([job], [])]
            self._telemetry.lost_rankings.inc(len(rankings))
            failure = self._record_failure(error)
            return [failure for _ in jobs]
        self.is_failing = False
        model = self._models.current  # still the same, because only this thread switches it
        for key, state in states.items():
            model.cache.publish(key, state)
            if not state.is_current:
                model.replayer.schedule(key)
        self._telemetry.commit_seconds.observe(time.perf_counter() - started)
        self._telemetry.group_events.observe(sum(len(job.events) for job in jobs))
        return answers

    def _write(
        self, jobs: Sequence[FeedbackJob], rankings: Sequence[Ranking]
    ) -> tuple[Sequence[FeedbackAnswer | ApiError], Mapping[UserKey, UserState]]:
        """Write a group. If a failed attempt may have been committed, the next one looks up its events by their ids."""

        def work(
            connection: Connection, may_be_committed: bool
        ) -> tuple[Sequence[FeedbackAnswer | ApiError], Mapping[UserKey, UserState]]:
            answers, states = self._models.current.ledger.apply(
                connection, jobs, may_be_committed=may_be_committed
            )
            add(connection, tables.rankings, rows)
            return answers, states

        rows = [
            row
            for ranking in rankings
            if self.quota.admits(ranking.tenant, (row := ranking.to_row())["size"])
        ]
        self._telemetry.lost_rankings.inc(len(rankings) - len(rows))
        result = self._run_with_retries(work)
        self.quota.count([(row["tenant"], row["size"]) for row in rows])
        return result

    def _transact(self, work: Callable[[Connection], Result], /) -> Result:
        """Run work that may safely be done twice in a transaction of its own."""
        return self._run_with_retries(lambda connection, _may_be_committed: work(connection))

    def _run_with_retries(self, work: Callable[[Connection, bool], Result]) -> Result:
        """Run work in one transaction, and retry it after contention with another server or a lost connection.

        If the connection is lost, the transaction may have been committed. From then on `work` is called with True.
        """
        may_be_committed, started = False, time.monotonic()
        for delay in (*_RETRY_DELAYS_SECONDS, None):
            try:
                with self._store.writing() as connection:
                    result = work(connection, may_be_committed)
            except DBAPIError as error:
                is_transient = is_contention(error) or is_lost_connection(error)
                is_late = time.monotonic() - started > _RETRY_LIMITS * self._settings.store_timeout_seconds
                if delay is None or is_late or not is_transient or not self._store.shared:
                    raise
                log.info("write_retried", error=type(error.orig).__name__)
                may_be_committed = may_be_committed or is_lost_connection(error)
                time.sleep(delay)
            else:
                return result
        raise AssertionError("the last attempt returns or raises")

    def commit(
        self, work: Callable[[Connection], Result], on_commit: Callable[[Result], None]
    ) -> Result | ApiError:
        """Run work in a transaction of its own, and call `on_commit` with its result as soon as that is durable."""
        try:
            result = self._transact(work)
        except ApiError as error:  # the request is at fault, and nothing was changed
            return error
        except Exception as error:
            return self._record_failure(error)
        self.is_failing = False
        on_commit(result)
        return result

    def expire(self) -> None:
        """Remove expired rows if it is time to. After a failure, this also tests whether the store is writable again."""
        wall, settings = self._store.clock(), self._settings
        if self.has_unfinished_chores or self.quota.has_excess:
            self._do_chores(self._expired_at)
        # The clock may have been set back since the last time.
        if not self.is_failing and abs(wall - self._tried_at) < settings.expiry_interval_seconds:
            return
        self._tried_at = wall
        try:
            with self._store.writing() as connection:
                now = self._store.expiry_clock.now(connection)
                drop_older_usage(connection, int(now // _DAY) - _USAGE_DAYS)
                self._store.expiry_clock.record(connection)
        except Exception as error:
            self._record_failure(error)
            return
        self.is_failing = False
        self._expired_at = now
        self._report_clock()
        self._do_chores(now)

    def _report_clock(self) -> None:
        """Log and count when the system's clock begins or ceases to differ from the time by which data expires."""
        ahead = self._store.expiry_clock.difference
        if ahead and not self._is_clock_disputed:
            self._telemetry.clock_jumps.inc()
            log.warning(
                "clock_jumped",
                seconds_ahead=round(ahead),
                message="Data expires by the earlier time until the clock is confirmed; see `penchant doctor`.",
            )
        elif self._is_clock_disputed and not ahead:
            log.warning("clock_confirmed")
        self._is_clock_disputed = bool(ahead)
        self._telemetry.clock_ahead.set(ahead)

    def _do_chores(self, now: float) -> None:
        """Do one step of each chore."""
        self.has_unfinished_chores = False
        try:
            for chore in self._chores:
                self.has_unfinished_chores |= chore.step(self._transact, now)
        except Exception as error:
            self._record_failure(error)

    def _record_failure(self, error: Exception) -> ApiError:
        self.is_failing = True
        log_failure("write_failed", error)
        if isinstance(error, SQLAlchemyError | OSError):
            return storage_error(_UNCERTAIN if self._store.shared else _NOTHING_STORED)
        return internal_error()
