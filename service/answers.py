"""What the answers look like: for the OpenAPI document, and for the tests that hold real answers to it.

The hot path writes plain dictionaries: building these models for each answer would cost more than ranking.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """An answer has these fields and no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class FieldError(Answer):
    """One field that is to blame."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldError]
    request_id: str
    message: str


class EventProblem(Answer):
    """Why an event was not learned from."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError]
    message: str


class DocumentText(Answer):
    """A ranked text."""

    text: str


class RerankResult(Answer):
    """One candidate; `relevance_score` is P(the user prefers it to the population's median answer)."""

    index: int
    relevance_score: float = Field(ge=0, le=1)
    score_std: float = Field(description="standard deviation of the candidate's utility")
    document: DocumentText | None = Field(default=None, description="absent unless asked for")


class ApiVersion(Answer):
    """Version of the dialect."""

    version: str


class BilledUnits(Answer):
    """One search a request."""

    search_units: int


class Tokens(Answer):
    """Tokens read by the encoder, cached texts included."""

    input_tokens: int
    output_tokens: int


class Personalization(Answer):
    """Whose taste the ranking follows."""

    user: str | None
    state: Literal["population", "personal"]
    feedback_events: int
    posterior_version: int


class Meta(Answer):
    """About the answer."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens
    warnings: list[str]
    personalization: Personalization


class Usage(Answer):
    """Tokens in OpenAI's words."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(Answer):
    """Candidates, the one the user should like best first."""

    id: str
    model: str
    results: list[RerankResult]
    meta: Meta
    usage: Usage


class TeiResult(Answer):
    """One candidate."""

    index: int
    score: float
    text: str | None = Field(default=None, description="absent unless asked for")


class ScoreResult(Answer):
    """One text; `score` is its utility, unbounded."""

    index: int
    object: Literal["score"]
    score: float
    std: float
    probability: float = Field(ge=0, le=1)


class ScoreResponse(Answer):
    """Scores in the order of the request."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreResult]
    usage: Usage


class CandidateScore(Answer):
    """One candidate; `score` is its mean utility."""

    index: int
    score: float
    probability_best: float = Field(ge=0, le=1)
    probability_acceptable: float = Field(ge=0, le=1)


class BestOfNResponse(Answer):
    """The choice, and the candidates by descending score; `best` is null where none is good enough."""

    id: str
    best: CandidateScore | None
    accepted: bool
    results: list[CandidateScore]


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


class Uncertainty(Answer):
    """How much is known of the user's taste: 1 is nothing more than of anybody, 0 is everything."""

    share_of_prior_std: float


class UserResponse(Answer):
    """What is known of a user."""

    user: str
    state: Literal["population", "personal"]
    feedback_events: int
    posterior_version: int
    bundle: str
    archetype_weights: list[float]
    uncertainty: Uncertainty
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


class Limits(Answer):
    """What a request may hold."""

    max_candidates: int
    max_text_chars: int
    max_tokens_per_text: int
    max_events: int
    max_body_bytes: int


class ModelInfo(Answer):
    """One name of the loaded bundle."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    bundle: str
    bundle_version: str
    limits: Limits


class ModelList(Answer):
    """Every model name that a request may use."""

    object: Literal["list"]
    data: list[ModelInfo]


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]


class Check(Answer):
    """One thing that must work."""

    status: Literal["ok", "failed"]
    detail: str


class Readiness(Answer):
    """Whether requests can be served."""

    status: Literal["ready"]
    checks: dict[str, Check]
