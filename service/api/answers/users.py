"""What the answers about users look like."""

from typing import Any, Literal

from pydantic import Field

from penchant.service.api.answers.base import Answer


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


class Learned(Answer):
    """What an event says, and how much of it was learned."""

    type: str
    value: float | None = Field(description="±1 of a vote; of a rating in [-1, 1]")
    weight: float
    discount: float = Field(ge=0, le=1, description="what caps and trust left of the weight")
    flags: list[str]
    groups: list[int] | None = Field(description="sizes of groups of tied texts, best first")
    target_event_id: str | None
    source: str | None


class JudgedText(Answer):
    """One text that an event judged, winner first, as one encoder knows it."""

    extractor: str
    position: int
    feature_key: str
    item_key: str


class ExportedEvent(Answer):
    """One event of the log, with all that belongs to it."""

    seq: int
    event_id: str
    received_at: str
    event: dict[str, Any] = Field(description="as sent; without texts where the tenant keeps none")
    learned: Learned
    content_hash: str
    texts: list[JudgedText]


class Information(Answer):
    """What was learned on the last day with feedback."""

    day: str
    judgements: float


class Trust(Answer):
    """How the account behaved."""

    share: float = Field(gt=0, le=1, description="what a judgement counts beside a fresh account's")
    alpha: float
    beta: float
    judgements_today: int
    judgements_on_a_usual_day: float
    as_of: str | None
    last_burst_at: str | None


class Standing(Answer):
    """Where the user's log stands."""

    posterior_version: int
    feedback_events: int
    last_seq: int
    updated_at: str
    information: Information
    trust: Trust


class Evidence(Answer):
    """The state itself: evidence in natural parameters, without the population's prior."""

    linear: list[float]
    precision: list[list[float]]


class Beliefs(Answer):
    """What the bundle in use believes of the user."""

    mean: list[float]
    std: list[float]
    archetype_weights: list[float]


class ExportedState(Answer):
    """What one bundle made of the log."""

    bundle: str
    half_life_days: float | None
    through_seq: int = Field(description="up to which event")
    as_of: str
    judgements: int
    changes: int = Field(description="times that the user was found to have changed")
    surprise: float
    evidence: Evidence
    beliefs: Beliefs | None = Field(description="null for another bundle than the one in use")


class ExportedRanking(Answer):
    """What was shown to the user."""

    rank_id: str
    created_at: str
    prompts: list[str]
    texts: list[str]


class StoredAnswer(Answer):
    """What an answer that is kept under an idempotency key says of the user."""

    idempotency_key: str
    created_at: str
    users: list[dict[str, Any]]


class UserExport(Answer):
    """All that is held on a user."""

    format: int
    user: str
    exported_at: str
    standing: Standing | None = Field(description="null where nothing was learned")
    events: list[ExportedEvent]
    states: list[ExportedState]
    rankings: list[ExportedRanking]
    stored_answers: list[StoredAnswer]


class MergeResponse(Answer):
    """Where the user stands after a merge."""

    user: str
    merged_events: int = Field(description="0 where there was nothing to merge, or it was merged before")
    feedback_events: int
    posterior_version: int


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
