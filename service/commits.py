"""Every transaction that changes the store. Called by the writer's thread alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from sqlalchemy.exc import SQLAlchemyError

from penchant.service.errors import ApiError, Code, internal_error
from penchant.service.jobs import FeedbackAnswer, FeedbackJob
from penchant.service.ledger import Ledger
from penchant.service.rankings import Ranking
from penchant.service.settings import Settings
from penchant.service.states import StateCache
from penchant.service.store import queries, tables
from penchant.service.store.database import Database
from penchant.service.telemetry import Telemetry, log_failure

_HOUR: Final = 3600.0


@dataclass(frozen=True)
class Deleted:
    """What a deletion removed.

    Attributes:
        feature_keys: Features that nobody needs any more.
        item_keys: Items that the user had judged.
        shown: What the user's rankings had shown, as stored.
    """

    feature_keys: tuple[bytes, ...]
    item_keys: tuple[bytes, ...]
    shown: tuple[bytes, ...]


class Commits:
    """Commits groups, deletions and expiry; makes states visible once they are durable.

    Args:
        database: The store.
        ledger: Learns from feedback.
        cache: Where committed states become visible.
        settings: Times to live.
        telemetry: Where commits are counted.
        clock: Unix seconds.

    Attributes:
        failing: Whether the last attempt to write failed.
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
        self._next_expiry = 0.0
        self.failing = False

    def group(
        self, jobs: Sequence[FeedbackJob], rankings: Sequence[Ranking]
    ) -> Sequence[FeedbackAnswer | ApiError]:
        """Feedback of several requests, and rankings, in one transaction; an answer for each job.

        Where it fails, each job is tried alone: the others must not suffer from the one to blame.
        """
        started = time.perf_counter()
        try:
            with self._database.writing() as connection:
                answers, states = self._ledger.apply(connection, jobs)
                queries.add(connection, tables.rankings, [ranking.row() for ranking in rankings])
        except Exception as error:
            if len(jobs) + bool(rankings) > 1:
                self.group([], rankings)
                return [answer for job in jobs for answer in self.group([job], [])]
            self._telemetry.lost_rankings.inc(len(rankings))
            failure = self._failure(error)
            return [failure for _ in jobs]
        self.failing = False
        for key, state in states.items():
            self._cache.publish(key, state)
        self._telemetry.commit_seconds.observe(time.perf_counter() - started)
        self._telemetry.group_events.observe(sum(len(job.events) for job in jobs))
        return answers

    def delete_user(self, tenant: str, user: str) -> Deleted | ApiError:
        """Removes a user."""
        try:
            with self._database.writing() as connection:
                found = queries.delete_user(connection, tenant, user, orjson.dumps(user).decode())
        except Exception as error:
            return self._failure(error)
        self.failing = False
        self._cache.publish((tenant, user), None)
        return Deleted(*found)

    def expire(self) -> None:
        """Removes what is too old, when it is time; after a failure it finds out whether writing works again."""
        now, settings = self._clock(), self._settings
        if not self.failing and now < self._next_expiry:
            return
        self._next_expiry = now + settings.expiry_interval_seconds
        try:
            with self._database.writing() as connection:
                removed = queries.expire(
                    connection,
                    rankings_before=now - settings.rank_ttl_hours * _HOUR,
                    answers_before=now - settings.idempotency_ttl_hours * _HOUR,
                )
        except Exception as error:
            self._failure(error)
            return
        self.failing = False
        self._telemetry.expired_rows.inc(removed)

    def _failure(self, error: Exception) -> ApiError:
        self.failing = True
        log_failure("write_failed", error)
        if isinstance(error, SQLAlchemyError | OSError):
            detail = "Nothing of this request was stored; it can be sent again."
            return ApiError(Code.STORAGE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
        return internal_error()
