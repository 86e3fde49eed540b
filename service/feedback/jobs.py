"""What is handed to the writer: one request's feedback, resolved and with its features."""

from dataclasses import dataclass

from penchant.service.errors import ApiError
from penchant.service.feedback.events import ParsedEvent
from penchant.service.feedback.judged import Judged
from penchant.service.log.rows import JudgedFeatures


@dataclass(frozen=True)
class ReadyEvent:
    """An event that can be learned — or, with a `fault`, one that can only turn out to be a duplicate.

    A retraction judges no texts and has no features.
    """

    parsed: ParsedEvent
    user: str
    judged: Judged | None = None
    features: JudgedFeatures | None = None
    fault: ApiError | None = None


@dataclass(frozen=True)
class Idempotency:
    """The caller's key for a request, and the hash of the request."""

    key: str
    request_hash: bytes


@dataclass(frozen=True, eq=False)
class FeedbackJob:
    """The events of one request.

    Attributes:
        tenant: Whose app sent them.
        events: Those that were not rejected yet.
        rejected: (index, why) of those that were.
        bare: One event without envelope: its rejection is the request's.
        idempotency: Where the answer must be kept.
        received_at: Unix seconds.
    """

    tenant: str
    events: tuple[ReadyEvent, ...]
    rejected: tuple[tuple[int, ApiError], ...]
    bare: bool
    idempotency: Idempotency | None
    received_at: float


@dataclass(frozen=True)
class FeedbackAnswer:
    """The answer of one request, and what to count.

    Attributes:
        body: JSON.
        outcomes: (type, outcome) of its events.
        changes: Change points that its events brought to light.
        flags: Why judgements were discounted, one a reason and judgement.
        bursts: Bursts that began.
    """

    body: bytes
    outcomes: tuple[tuple[str, str], ...]
    changes: int
    flags: tuple[str, ...] = ()
    bursts: int = 0
