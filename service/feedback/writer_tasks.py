"""What waits for the writer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penchant.service.feedback.jobs import FeedbackAnswer, FeedbackJob
from penchant.service.ranking.rankings import Ranking


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


Task = Feedback | Alone | Shown


def weight(work: Task) -> int:
    """How many events it is: what bounds a group."""
    return max(1, len(work.job.events)) if isinstance(work, Feedback) else 1
