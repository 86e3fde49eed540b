"""Models of the answer to feedback."""

from penchant.service.api.answers.base import Answer, FieldError


class EventProblem(Answer):
    """The reason why an event was rejected."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError]
    message: str


class RejectedEvent(Answer):
    """A rejected event of a batch."""

    index: int
    problem: EventProblem


class UserVersion(Answer):
    """State of a user after the request."""

    user: str
    posterior_version: int
    feedback_events: int


class FeedbackResponse(Answer):
    """Results of the events."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]
    users: list[UserVersion]
