"""The events of one request on their way to the writer, and the writer's answer."""

from dataclasses import dataclass

from penchant.models.judgements.base import NO_STATEMENT, Statement
from penchant.service.errors import ApiError
from penchant.service.feedback.events import ReceivedEvent
from penchant.service.log.rows import JudgedFeatures


@dataclass(frozen=True)
class ReadyEvent:
    """An event whose user and texts are known.

    Attributes:
        received: The event as it was sent.
        user: User who judged.
        prompt: Prompt that the texts answer.
        statement: What it states. It has no texts for a retraction, and if there is a `fault`.
        payload: JSON for the log.
        features: Features of its texts.
        target: Id of the event that it retracts, if any.
        fault: Why the event cannot be logged. It can still turn out to be a duplicate of a logged one.
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
        events: Events that were not rejected so far.
        rejected: Rejected events, each as (index, error).
        bare: Whether the request is a single event without an envelope. Its rejection is then the request's.
        idempotency: Key under which the answer is stored, if any.
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
    """The answer to one request, and what its events did.

    Attributes:
        body: JSON.
        outcomes: (type, outcome) of each event.
        changes: Change points that the events revealed.
        flags: Why judgements were discounted, one entry for each reason and judgement.
        bursts: Bursts that began.
    """

    body: bytes
    outcomes: tuple[tuple[str, str], ...]
    changes: int
    flags: tuple[str, ...] = ()
    bursts: int = 0
