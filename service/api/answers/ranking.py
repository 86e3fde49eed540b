"""What the answers look like: for the OpenAPI document, and for the tests that hold real answers to it.

The hot path writes plain dictionaries: building these models for each answer would cost more than ranking.
"""

from typing import Literal

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


class Part(Answer):
    """One term of a utility, in units of utility."""

    name: str = Field(
        description="an attribute, or `content`, `memory`, `constant` (shared), `threshold` (personal)"
    )
    personal: bool = Field(description="how this user departs from the population, or else shared taste")
    label: str = Field(description="in plain language; of an attribute, which way the candidate stands out")
    value: float
    std: float = Field(description="over what is known of the user; 0 of shared taste")


class Explanation(Answer):
    """What makes a candidate's utility for the user, and what moved it up or down for this user."""

    utility: float = Field(description="posterior mean; the values of `parts` sum to it")
    std: float
    population_utility: float = Field(description="the sum of the shared parts")
    population_rank: int = Field(description="place among the candidates for anybody, 1 is first")
    parts: list[Part] = Field(description="largest value first, whatever its sign")
    shift: float = Field(
        description="how far it moved for this user against the other candidates; the values of `moved` sum to it"
    )
    shift_std: float
    probability_up: float = Field(ge=0, le=1, description="P(shift > 0)")
    moved: list[Part] = Field(description="the personal parts of the shift, largest value first")


EXPLANATION = Field(default=None, description="absent unless `explain` was asked for")


class RerankResult(Answer):
    """One candidate; `relevance_score` is P(the user prefers it to the population's median answer)."""

    index: int
    relevance_score: float = Field(ge=0, le=1)
    score_std: float = Field(description="standard deviation of the candidate's utility")
    document: DocumentText | None = Field(default=None, description="absent unless asked for")
    explanation: Explanation | None = EXPLANATION


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
    explanation: Explanation | None = EXPLANATION


class ScoreResult(Answer):
    """One text; `score` is its utility, unbounded."""

    index: int
    object: Literal["score"]
    score: float
    std: float
    probability: float = Field(ge=0, le=1)
    user: str | None = Field(default=None, description="whose score it is; absent unless `users` was sent")
    explanation: Explanation | None = EXPLANATION


class ScoreResponse(Answer):
    """Scores in the order of the request: of several users, all of the first one, then of the next."""

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
    explanation: Explanation | None = EXPLANATION


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
