"""The requests that are passed to the writer, and its answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from penchant.models.judgements.base import NO_STATEMENT, Statement
from penchant.service.errors import ApiError
from penchant.service.feedback.events import ReceivedEvent
from penchant.service.feedback.history import HistoryRead
from penchant.service.feedback.trust import HISTORY_AGE_SECONDS, find_day
from penchant.service.log.rows import JudgedFeatures


@dataclass(frozen=True)
class ReadyEvent:
    """An event whose user and texts are known.

    Attributes:
        received: The event as it was sent.
        user: User who judged.
        prompt: Prompt that the texts answer.
        statement: Statement of the judgement. It has no texts for a retraction, or if there is a `fault`.
        payload: Payload for the log as JSON.
        features: Features of its texts. None if it has no texts.
        target: Id of the event that it retracts. None for a judgement.
        fault: Error for which the event cannot be logged, if any. The event may still be a duplicate of a logged one.
    """

    received: ReceivedEvent
    user: str
    prompt: str = ""
    statement: Statement = NO_STATEMENT
    payload: str = ""
    features: JudgedFeatures | None = None
    target: str | None = None
    fault: ApiError | None = None


@dataclass(frozen=True)
class Idempotency:
    """A caller's idempotency key, and the hash of the request that it stands for."""

    key: str
    request_hash: bytes


@dataclass(frozen=True, eq=False)
class FeedbackJob:
    """The events of one request.

    Attributes:
        tenant: Tenant that sent them.
        events: Events that have not been rejected so far.
        rejected: Rejected events, each as (index, error).
        is_bare: Whether the request is a single event without an envelope. If it is rejected, so is the request.
        idempotency: Key under which the answer is stored, if any.
        received_at: Time of arrival in Unix seconds.
        is_admin: Whether the sender has the scope `admin`, so that its events of the past are history.
        history: What was learned from each user's history of the days that its own history belongs to.
    """

    tenant: str
    events: tuple[ReadyEvent, ...]
    rejected: tuple[tuple[int, ApiError], ...]
    is_bare: bool
    idempotency: Idempotency | None
    received_at: float
    is_admin: bool = False
    history: Mapping[str, HistoryRead] = field(default_factory=dict)

    def find_time(self, event: ReadyEvent) -> float:
        """Return the time that the age of one of its events counts from: its timestamp, but never after its arrival."""
        timestamp = event.received.timestamp
        return self.received_at if timestamp is None else min(timestamp, self.received_at)

    def is_history(self, event: ReadyEvent) -> bool:
        """Return whether one of its events is a judgement of the past, which an admin may send as fast as any."""
        is_old = self.received_at - self.find_time(event) >= HISTORY_AGE_SECONDS
        return self.is_admin and event.target is None and is_old

    def list_history_days(self) -> dict[str, set[int]]:
        """Return the UTC days of each user that its history belongs to."""
        days: dict[str, set[int]] = {}
        for event in self.events:
            if self.is_history(event):
                days.setdefault(event.user, set()).add(find_day(self.find_time(event)))
        return days

    @cached_property
    def size(self) -> int:
        """Characters of the events' payloads, which is about their size in bytes."""
        return sum(len(event.payload) for event in self.events)


@dataclass(frozen=True)
class FeedbackAnswer:
    """The answer to one request, and the effects of its events.

    Attributes:
        body: Response body as JSON.
        outcomes: Type and outcome of each event.
        change_points: Number of change points that the events revealed.
        flags: Reasons for discounts, one entry for each reason and judgement.
        bursts: Number of bursts that began.
    """

    body: bytes
    outcomes: tuple[tuple[str, str], ...]
    change_points: int
    flags: tuple[str, ...] = ()
    bursts: int = 0
