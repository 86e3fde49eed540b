"""Models of the answers about users."""

from typing import Any, Literal

from pydantic import Field

from penchant.service.api.answers.base import Answer


class Uncertainty(Answer):
    """Remaining uncertainty about the user's taste: 1 if nothing was learned, 0 if everything is known."""

    share_of_prior_std: float


class ThresholdReason(Answer):
    """How the user's liking of a middling answer differs from the population's."""

    effect: float = Field(description="in units of utility; positive: easier to satisfy than most")
    std: float
    probability: float = Field(ge=0, le=1, description="P(effect > 0)")


class AttributeReason(Answer):
    """How the user's liking of one attribute of a text, or of close answers, differs from the population's."""

    name: str = Field(
        description="an attribute, or `relevance`: how closely a text answers its prompt. `relevance` is absent if the "
        "bundle reads no prompts or the user's texts do not differ in it"
    )
    label: str = Field(description="what the user prefers, according to the sign of the effect")
    effect: float = Field(
        description="effect of one standard deviation more, all else equal, in units of utility; for `relevance`, the "
        "deviation among the user's texts"
    )
    std: float
    probability: float = Field(ge=0, le=1, description="P(effect > 0)")
    slope: float = Field(
        description="the same along the user's texts, together with everything else that varies with the attribute"
    )
    slope_std: float
    slope_probability: float = Field(ge=0, le=1, description="P(slope > 0)")
    population: float = Field(description="the population's own effect")
    told: bool = Field(description="whether the effect is certain enough to be named as a reason")


class TextReason(Answer):
    """A text that the user judged and likes more, or less, than others do."""

    event_id: str
    prompt: str
    text: str
    value: float = Field(description="difference from the mean of the user's texts, in units of utility")
    std: float
    probability: float = Field(ge=0, le=1, description="P(value > 0)")


class Reasons(Answer):
    """How the user differs from the population, with uncertainties."""

    judged_texts: int = Field(description="number of the newest texts that were considered")
    threshold: ThresholdReason
    attributes: list[AttributeReason] = Field(description="those with `told` come first")
    named_share: float = Field(
        ge=0,
        le=1,
        description="share of the difference that attributes and relevance explain; the rest is content",
    )
    texts: list[TextReason] = Field(description="largest value first")


class UserResponse(Answer):
    """State of a user."""

    user: str
    state: Literal["population", "personal"]
    feedback_events: int
    posterior_version: int
    bundle: str
    archetype_weights: list[float]
    uncertainty: Uncertainty
    reasons: Reasons | None = Field(description="null if the bundle cannot be explained")
    updated_at: str


class Learned(Answer):
    """What an event states, and how much of it was learned."""

    type: str
    value: float | None = Field(description="±1 for a vote, a number in [-1, 1] for a rating")
    weight: float
    discount: float = Field(ge=0, le=1, description="factor by which caps and trust reduced the weight")
    flags: list[str] = Field(
        description="`history` for an event of the past, and reasons for the discount: `burst`, `trust`, `capped`"
    )
    groups: list[int] | None = Field(description="sizes of groups of tied texts, best first")
    target_event_id: str | None
    source: str | None


class JudgedText(Answer):
    """One judged text of an event, winner first, with its features from one encoder."""

    extractor: str
    position: int
    feature_key: str
    item_key: str
    match: dict[str, float | None] | None = Field(
        description="what the text is to the prompt, by feature; null if it is unknown or was not needed"
    )
    match_version: str | None
    prompt_key: str | None = Field(description="key of the prompt's features; null without a known prompt")


class ExportedEvent(Answer):
    """One event of the log, with everything stored for it."""

    seq: int
    event_id: str
    received_at: str
    happened_at: str = Field(description="time that its age counts from, never after `received_at`")
    is_replaced: bool = Field(
        description="whether a later event has its id, or that of an event which it retracted"
    )
    event: dict[str, Any] = Field(description="as sent; without texts if the tenant keeps none")
    learned: Learned
    content_hash: str
    texts: list[JudgedText]


class Information(Answer):
    """What was learned on the last day with feedback."""

    day: str
    judgements: float


class Trust(Answer):
    """Trust in the account, from its behaviour."""

    share: float = Field(gt=0, le=1, description="weight of a judgement relative to that of a new account")
    alpha: float
    beta: float
    judgements_today: int
    judgements_on_a_usual_day: float
    as_of: str | None
    last_burst_at: str | None


class Standing(Answer):
    """State of the user's log."""

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
    """Posterior of the user under the bundle in use."""

    mean: list[float]
    std: list[float]
    archetype_weights: list[float]


class ExportedState(Answer):
    """State that one bundle learned from the log."""

    bundle: str
    half_life_days: float | None
    through_seq: int = Field(description="seq of the last event that the state covers")
    as_of: str
    judgements: int
    changes: int = Field(description="number of detected changes of the user")
    surprise: float
    evidence: Evidence
    beliefs: Beliefs | None = Field(description="null unless the bundle is in use")


class ExportedRanking(Answer):
    """A ranking that was made for the user."""

    rank_id: str
    created_at: str
    prompts: list[str]
    texts: list[str]


class StoredAnswer(Answer):
    """The part of an answer stored under an idempotency key that concerns the user."""

    idempotency_key: str
    created_at: str
    users: list[dict[str, Any]]


class UserExport(Answer):
    """Everything stored about a user."""

    format: int
    user: str
    exported_at: str
    standing: Standing | None = Field(description="null if nothing was learned")
    events: list[ExportedEvent]
    states: list[ExportedState]
    rankings: list[ExportedRanking]
    stored_answers: list[StoredAnswer]


class MergeResponse(Answer):
    """State of the user after a merge."""

    user: str
    merged_events: int = Field(description="0 if there was nothing to merge, or it was merged before")
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
