"""What the answers about users look like."""

from typing import Any, Literal

from pydantic import Field

from penchant.service.answers import Answer


class Uncertainty(Answer):
    """How much is known of the user's taste: 1 is nothing more than of anybody, 0 is everything."""

    share_of_prior_std: float


class ThresholdReason(Answer):
    """What the user makes of a middling answer beyond what the population makes of it."""

    effect: float = Field(description="in units of utility; positive: easier to satisfy than most")
    std: float
    probability: float = Field(ge=0, le=1, description="P(effect > 0)")


class AttributeReason(Answer):
    """What the user makes of one attribute of a text beyond what the population makes of it."""

    name: str
    label: str = Field(description="what the user prefers, by the sign of the effect")
    effect: float = Field(
        description="of one standard deviation more of it, all else equal, in units of utility"
    )
    std: float
    probability: float = Field(ge=0, le=1, description="P(effect > 0)")
    slope: float = Field(
        description="the same along the user's texts, with all that comes with the attribute"
    )
    slope_std: float
    slope_probability: float = Field(ge=0, le=1, description="P(slope > 0)")
    population: float = Field(description="the population's own effect")
    told: bool = Field(description="a reason to name, rather than something that is not known")


class TextReason(Answer):
    """A text that the user judged and likes more, or less, than others do."""

    event_id: str
    prompt: str
    text: str
    value: float = Field(description="against the mean of the user's texts, in units of utility")
    std: float
    probability: float = Field(ge=0, le=1, description="P(value > 0)")


class Reasons(Answer):
    """How the user differs from the population, and how certain that is."""

    judged_texts: int = Field(description="how many of the newest were looked at")
    threshold: ThresholdReason
    attributes: list[AttributeReason] = Field(description="those that are told first")
    named_share: float = Field(
        ge=0, le=1, description="share of the difference that named attributes carry; the rest is content"
    )
    texts: list[TextReason] = Field(description="largest value first")


class UserResponse(Answer):
    """What is known of a user."""

    user: str
    state: Literal["population", "personal"]
    feedback_events: int
    posterior_version: int
    bundle: str
    archetype_weights: list[float]
    uncertainty: Uncertainty
    reasons: Reasons | None = Field(description="null where the bundle cannot be explained")
    updated_at: str


class LoggedEvent(Answer):
    """An event as it was sent, with its place in the user's log."""

    seq: int
    event_id: str
    received_at: str
    event: dict[str, Any]


class FeedbackPage(Answer):
    """One page of a user's feedback log, oldest first."""

    data: list[LoggedEvent]
    has_more: bool
    next_cursor: str | None
