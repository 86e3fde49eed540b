"""What the answer to feedback looks like."""

from penchant.service.api.answers.base import Answer, FieldError


class EventProblem(Answer):
    """Why an event was not learned from."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError]
    message: str


class RejectedEvent(Answer):
    """An event of a batch that was not learned from."""

    index: int
    problem: EventProblem


class UserVersion(Answer):
    """Where a user stands after the request."""

    user: str
    posterior_version: int
    feedback_events: int


class FeedbackResponse(Answer):
    """What became of the events."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]
    users: list[UserVersion]
