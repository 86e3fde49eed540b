"""Every transaction that changes the store. Called by the writer's thread alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from penchant.service.errors import ApiError, internal_error, storage_error
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
    record_write,
)
from penchant.service.store.keys import drop_older_usage
from penchant.service.store.requests import drop_older_answers, drop_older_rankings
from penchant.service.store.statements import add
from penchant.service.telemetry.metrics import Telemetry, log, log_failure
from penchant.service.users.replayer import Replayer
from penchant.service.users.states import StateCache, UserKey, UserState

_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_USE_DAYS: Final = 31  # what a tenant used in a day is kept for so long
_NOTHING_STORED: Final = "Nothing of this request was stored; it can be sent again."
_UNCERTAIN: Final = "Send it again with the same event ids or `Idempotency-Key`: it counts once."
_PATIENCE_SECONDS: Final = (0.0, 0.05, 0.2)  # between tries, where another server was in the way
Answer = TypeVar("Answer")


class Learning(Protocol):
    """What a commit needs of the model that learns."""

    @property
    def ledger(self) -> Ledger:
        """Writes feedback, and says which states it changed."""

    @property
    def cache(self) -> StateCache:
        """Where committed states become visible."""

    @property
    def replayer(self) -> Replayer:
        """Brings up to the log the states that a commit left behind it."""


class Models(Protocol):
    """The models of a server, as a commit sees them."""

    @property
    def current(self) -> Learning:
        """The model that ranks and learns."""


class Transact(Protocol):
    """Runs work in a write transaction of its own, again where another server was in the way."""

    def __call__(self, work: Callable[[Connection], Answer], /) -> Answer:
        """What the work returned, once that is durable."""


class Chore(Protocol):
    """Something that is removed in small steps, between two groups of feedback."""

    def step(self, transact: Transact, now: float) -> bool:
        """Does a little of it; returns whether there may be more to do at once.

        Args:
            transact: How the store is changed.
            now: Unix seconds.
        """


class Commits:
    """Commits groups, what is alone, and expiry; makes states visible once they are durable.

    Args:
        store: The store.
        models: The models of this server. The current one learns.
        chores: What is done whenever things expire.
        settings: Times to live.
        telemetry: Where commits are counted.

    Attributes:
        failing: Whether the last attempt to write failed.
        unfinished: Whether a chore has more to do.
    """

    def __init__(
        self,
        *,
        store: Store,
        models: Models,
        chores: Sequence[Chore],
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._models = models
        self._chores = chores
        self._settings = settings
        self._telemetry = telemetry
        self._next_expiry = 0.0
        self.failing = False
        self.unfinished = False

    def group(
        self, jobs: Sequence[FeedbackJob], rankings: Sequence[Ranking]
    ) -> Sequence[FeedbackAnswer | ApiError]:
        """Feedback of several requests, and rankings, in one transaction; an answer for each job.

        Where it fails, each job is tried alone: the others must not suffer from the one to blame.
        """
        started = time.perf_counter()
        try:
            answers, states = self._write(jobs, rankings)
        except Exception as error:
            if len(jobs) + bool(rankings) > 1 and not is_unreachable(error):
                self.group([], rankings)
                return [answer for job in jobs for answer in self.group([job], [])]
            self._telemetry.lost_rankings.inc(len(rankings))
            failure = self._failure(error)
            return [failure for _ in jobs]
        self.failing = False
        model = self._models.current  # the same as a moment ago: it changes on this thread alone
        for key, state in states.items():
            model.cache.publish(key, state)
            if not state.is_current:
                model.replayer.refresh(key)
        self._telemetry.commit_seconds.observe(time.perf_counter() - started)
        self._telemetry.group_events.observe(sum(len(job.events) for job in jobs))
        return answers

    def _write(
        self, jobs: Sequence[FeedbackJob], rankings: Sequence[Ranking]
    ) -> tuple[Sequence[FeedbackAnswer | ApiError], Mapping[UserKey, UserState]]:
        """A group; where it was uncertain whether it was stored, the second try looks for its events, by their ids."""

        def work(
            connection: Connection, again: bool
        ) -> tuple[Sequence[FeedbackAnswer | ApiError], Mapping[UserKey, UserState]]:
            answers, states = self._models.current.ledger.apply(connection, jobs, again=again)
            add(connection, tables.rankings, [ranking.row() for ranking in rankings])
            return answers, states

        return self._persistent(work)

    def _transact(self, work: Callable[[Connection], Answer], /) -> Answer:
        """A transaction of its own for work that may be done twice."""
        return self._persistent(lambda connection, _again: work(connection))

    def _persistent(self, work: Callable[[Connection, bool], Answer]) -> Answer:
        """One transaction; again where another server's was in the way, or the connection broke.

        Where it broke during the commit nobody knows whether that was done: `work` is then called with True.
        """
        again = False
        for patience in (*_PATIENCE_SECONDS, None):
            try:
                with self._store.writing() as connection:
                    found = work(connection, again)
            except DBAPIError as error:
                passing = is_contention(error) or is_lost_connection(error)
                if patience is None or not passing or not self._store.shared:
                    raise
                log.info("write_retried", error=type(error.orig).__name__)
                again = again or is_lost_connection(error)
                time.sleep(patience)
            else:
                return found
        raise AssertionError("the last try returns or raises")

    def alone(
        self, work: Callable[[Connection], Answer], then: Callable[[Answer], None]
    ) -> Answer | ApiError:
        """One transaction for a purpose of its own; `then` is called once it is durable."""
        try:
            found = self._transact(work)
        except ApiError as error:  # the request is to blame; nothing was changed
            return error
        except Exception as error:
            return self._failure(error)
        self.failing = False
        then(found)
        return found

    def expire(self) -> None:
        """Removes what is too old, when it is time; after a failure it finds out whether writing works again."""
        now, settings = self._store.clock(), self._settings
        if self.unfinished:
            self._do_chores(now)
        if not self.failing and now < self._next_expiry:
            return
        self._next_expiry = now + settings.expiry_interval_seconds
        try:
            with self._store.writing() as connection:
                removed = (
                    drop_older_rankings(connection, now - settings.rank_ttl_hours * _HOUR)
                    + drop_older_answers(connection, now - settings.idempotency_ttl_hours * _HOUR)
                    + drop_older_usage(connection, int(now // _DAY) - _USE_DAYS)
                )
                record_write(connection, now)
        except Exception as error:
            self._failure(error)
            return
        self.failing = False
        self._telemetry.expired_rows.inc(removed)
        self._do_chores(now)

    def _do_chores(self, now: float) -> None:
        """One step of each."""
        self.unfinished = False
        try:
            for chore in self._chores:
                self.unfinished |= chore.step(self._transact, now)
        except Exception as error:
            self._failure(error)

    def _failure(self, error: Exception) -> ApiError:
        self.failing = True
        log_failure("write_failed", error)
        if isinstance(error, SQLAlchemyError | OSError):
            return storage_error(_UNCERTAIN if self._store.shared else _NOTHING_STORED)
        return internal_error()
