"""What waits for the writer, and in which groups it is written.

Feedback, for which a request waits, goes before rankings, for which none does. Nothing passes exclusive work, except
that the rankings before it are written first. Groups are limited in bytes, because everybody waits for a transaction.
"""

import asyncio
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob
from penchant.service.ranking.rankings import Ranking


@dataclass(frozen=True, eq=False)
class FeedbackWork:
    """A feedback request and the future of its answer."""

    job: FeedbackJob
    future: "asyncio.Future[FeedbackAnswer]"


@dataclass(frozen=True, eq=False)
class ExclusiveWork:
    """An action that runs between two groups.

    Attributes:
        action: Function to run on the owner thread. It returns an `ApiError` if it fails.
        future: Future of its result.
    """

    action: Callable[[], Any]
    future: "asyncio.Future[Any]"


@dataclass(frozen=True, eq=False)
class RankingWork:
    """Rankings to store. No request waits for them.

    Attributes:
        rankings: The rankings.
        callbacks: Functions to call on the event loop as soon as the rankings are stored.
    """

    rankings: tuple[Ranking, ...]
    callbacks: tuple[Callable[[], object], ...]

    @cached_property
    def size(self) -> int:
        """Memory of the rankings, in bytes."""
        return sum(ranking.size for ranking in self.rankings)


Work = FeedbackWork | ExclusiveWork | RankingWork


def split_rankings(
    rankings: Sequence[tuple[Ranking, Callable[[], object]]], max_bytes: int
) -> Iterator[RankingWork]:
    """Yield rankings and their callbacks in works of at most `max_bytes`, or of a single larger ranking."""
    part: list[tuple[Ranking, Callable[[], object]]] = []
    size = 0
    for ranking, callback in rankings:
        if part and size + ranking.size > max_bytes:
            yield RankingWork(*zip(*part, strict=True))
            part, size = [], 0
        part.append((ranking, callback))
        size += ranking.size
    if part:
        yield RankingWork(*zip(*part, strict=True))


class WorkQueue:
    """A queue that any thread may fill and the owner thread empties, group by group.

    Args:
        max_events: Number of events after which a group is full.
        max_bytes: Bytes of events after which a group is full, and bytes of rankings that are added to a group. A group
            may exceed each by a single request, and by a single ranking.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._incoming: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._rankings: deque[RankingWork] = deque()
        self._exclusive: ExclusiveWork | None = None
        self._is_closed = False

    def put(self, work: Work) -> None:
        """Add work. Any thread may call this."""
        self._incoming.put(work)

    def close(self) -> None:
        """Let the queue end after the work that it holds. Any thread may call this."""
        self._incoming.put(None)

    # On the owner thread

    @property
    def is_finished(self) -> bool:
        """Whether the queue is closed and all its work has been taken."""
        return self._is_closed and not self._rankings and self._exclusive is None

    def take_group(self, timeout: float) -> list[Work]:
        """Return what to write next: one exclusive work, or feedback and rankings for one transaction.

        Args:
            timeout: Seconds to wait for work if there is none.
        """
        group: list[Work] = []
        events = size = 0
        while self._exclusive is None and events < self._max_events and size < self._max_bytes:
            work = self._get(0.0 if group or self._rankings else timeout)
            if work is None:
                break
            if isinstance(work, RankingWork):
                self._rankings.append(work)
            elif isinstance(work, ExclusiveWork):
                self._exclusive = work
            else:
                group.append(work)
                events, size = events + max(1, len(work.job.events)), size + work.job.size
        size = 0
        while self._rankings and (not size or size + self._rankings[0].size <= self._max_bytes):
            size += self._rankings[0].size
            group.append(self._rankings.popleft())
        if not group and self._exclusive is not None:
            group, self._exclusive = [self._exclusive], None
        return group

    def _get(self, timeout: float) -> Work | None:
        """Return the next work. Return None if there is none, or if the queue is closed."""
        if self._is_closed:
            return None
        try:
            work = self._incoming.get(timeout=timeout) if timeout > 0 else self._incoming.get_nowait()
        except queue.Empty:
            return None
        self._is_closed = work is None
        return work
