"""What the server answers. Every model keeps fields it does not know, so that a newer server is no error."""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AttributeReason",
    "BestOfN",
    "Candidate",
    "Explanation",
    "FeedbackReceipt",
    "Listing",
    "LoggedEvent",
    "Merged",
    "ModelCard",
    "Part",
    "Personalization",
    "RankedDocument",
    "Ranking",
    "RankingMeta",
    "Readiness",
    "Reasons",
    "RejectedEvent",
    "ResponseT",
    "Score",
    "Scores",
    "TextReason",
    "TouchedUser",
    "Usage",
    "User",
    "UserExport",
]


class Response(BaseModel):
    """Base of all: immutable, unknown fields kept as attributes."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


ResponseT = TypeVar("ResponseT", bound=Response)


class Usage(Response):
    """Tokens that the request cost."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class Personalization(Response):
    """Who a ranking was for, and from how much feedback.

    Attributes:
        user: The user whose taste ranked, or None where the population did.
        state: ``population`` where nothing of the user's own was known, else the server's word for it.
        feedback_events: Events behind the user's state.
        posterior_version: Grows with each event learned; join key for logs.
    """

    user: str | None = None
    state: str = "population"
    feedback_events: int = 0
    posterior_version: int | str | None = None


class Document(Response):
    """A document sent back, where ``return_documents`` asked for it."""

    text: str


class Part(Response):
    """One term of a utility.

    Attributes:
        name: An attribute of the text, or ``content``, ``memory``, ``constant`` (shared), ``threshold`` (personal).
        personal: Whether it is how this user departs from the population, or shared taste.
        label: In plain language; of an attribute, which way the candidate stands out, liked or not.
        value: In units of utility.
        std: Its standard deviation over what is known of the user; 0 of shared taste.
    """

    name: str
    personal: bool
    label: str | None = None
    value: float
    std: float = 0.0


class Explanation(Response):
    """Why a candidate got its utility, and what moved it for this user.

    Attributes:
        utility: Posterior mean: the values of ``parts`` sum to it.
        parts: Shared and personal, largest value first, whatever its sign.
        shift: How far it moved for this user against the other candidates: the values of ``moved`` sum to it.
        moved: The personal parts of the shift, largest value first.
        population_rank: Its place among the candidates for anybody, 1 is first.
    """

    utility: float
    parts: list[Part]
    shift: float = 0.0
    moved: list[Part] = Field(default_factory=list)
    population_rank: int | None = None


class RankedDocument(Response):
    """One document of a ranking.

    Attributes:
        index: Its place in the request's ``documents``.
        relevance_score: P(this user prefers it to the population's median answer), in [0, 1].
        score_std: Standard deviation of its utility, where the server tells it.
        document: The text, where ``return_documents`` asked for it.
        explanation: Where ``explain`` asked for it.
    """

    index: int
    relevance_score: float
    score_std: float | None = None
    document: Document | None = None
    explanation: Explanation | None = None


class RankingMeta(Response):
    """Beside the results: whose taste, and what was cut."""

    personalization: Personalization = Field(default_factory=Personalization)
    warnings: list[Any] = Field(default_factory=list)


class Ranking(Response):
    """Documents, best first. ``id`` joins later feedback to what was shown."""

    id: str
    model: str | None = None
    results: list[RankedDocument]
    meta: RankingMeta = Field(default_factory=RankingMeta)
    usage: Usage = Field(default_factory=Usage)

    @property
    def order(self) -> list[int]:
        """Indices of the request's documents, best first."""
        return [result.index for result in self.results]


class Score(Response):
    """One text's utility for the user: raw (unbounded), with its standard deviation."""

    index: int
    score: float
    std: float | None = None
    probability: float | None = None
    explanation: Explanation | None = None


class Scores(Response):
    """Scores in the order of the request."""

    id: str
    model: str | None = None
    data: list[Score]
    usage: Usage = Field(default_factory=Usage)


class Candidate(Response):
    """One candidate of best-of-n.

    Attributes:
        index: Its place in the request's ``candidates``.
        score: Mean utility.
        probability_best: P(it has the highest utility of all candidates).
        probability_acceptable: P(the user would vote +1).
        explanation: Where ``explain`` asked for it.
    """

    index: int
    score: float
    probability_best: float
    probability_acceptable: float
    explanation: Explanation | None = None


class BestOfN(Response):
    """The candidate to show. ``best`` is None, and ``accepted`` False, where none reached the threshold."""

    id: str
    best: Candidate | None = None
    accepted: bool
    results: list[Candidate]


class RejectedEvent(Response):
    """An event of a batch that was not taken: ``problem`` says why, ``index`` which."""

    index: int
    problem: Any


class TouchedUser(Response):
    """A user whose state an event changed."""

    user: str
    posterior_version: int | str | None = None
    feedback_events: int = 0


class FeedbackReceipt(Response):
    """What became of the events. What is accepted is on disk, and the user's next ranking reflects it."""

    accepted: int
    duplicates: int = 0
    rejected: list[RejectedEvent] = Field(default_factory=list)
    users: list[TouchedUser] = Field(default_factory=list)


class AttributeReason(Response):
    """What the user makes of one attribute of a text beyond what the population makes of it.

    Attributes:
        name: The attribute.
        label: What the user prefers, by the sign of the effect.
        effect: Of one standard deviation more of it, all else equal, in units of utility.
        std: Its standard deviation.
        probability: P(effect > 0).
        told: Whether this is a reason to name, rather than something that is not known.
    """

    name: str
    label: str | None = None
    effect: float
    std: float
    probability: float
    told: bool = False


class TextReason(Response):
    """A text that the user judged and likes more, or less, than others do.

    Attributes:
        text: The text, as an answer to
        prompt: this.
        value: What the user departs by, in units of utility.
        std: Its standard deviation.
        probability: P(value > 0).
    """

    text: str
    prompt: str = ""
    value: float
    std: float | None = None
    probability: float | None = None


class Reasons(Response):
    """How a user differs from the population. Attributes that are told come first; texts by falling value."""

    attributes: list[AttributeReason] = Field(default_factory=list)
    texts: list[TextReason] = Field(default_factory=list)


class User(Response):
    """What is known of a user; the server may tell more than is named here.

    Attributes:
        user: The id.
        state: ``personal`` or ``population``.
        feedback_events: Events behind the state.
        posterior_version: Grows with each event learned.
        archetype_weights: How much the user is like each of the population's archetypes; they sum to 1.
        reasons: How the user differs from the population, where the server can tell.
    """

    user: str
    state: str
    feedback_events: int = 0
    posterior_version: int | str | None = None
    archetype_weights: list[float] = Field(default_factory=list)
    reasons: Reasons | None = None


class Listing(Response, Generic[ResponseT]):
    """``{data, has_more?, next_cursor?}``; a list without the last two is whole."""

    data: tuple[ResponseT, ...]
    has_more: bool = False
    next_cursor: str | None = None

    @property
    def cursor(self) -> str | None:
        """What the next page is asked for with; None at the end."""
        return self.next_cursor if self.has_more else None


class ModelCard(Response):
    """A model that rankings may name, with its limits."""

    id: str


class LoggedEvent(Response):
    """An event of a user's log: ``event`` is what was sent."""

    event_id: str
    event: dict[str, Any]


class UserExport(Response):
    """All that is held on a user; the server tells more of each than is named here.

    Attributes:
        user: The id.
        events: The log, oldest first.
        states: What every bundle made of it.
        rankings: What was shown.
        stored_answers: What kept answers say of the user.
    """

    user: str
    events: list[LoggedEvent] = Field(default_factory=list)
    states: list[dict[str, Any]] = Field(default_factory=list)
    rankings: list[dict[str, Any]] = Field(default_factory=list)
    stored_answers: list[dict[str, Any]] = Field(default_factory=list)


class Merged(Response):
    """Where a user stands after a merge.

    Attributes:
        user: The id that is left.
        merged_events: Events that were given to it; 0 where there was nothing to merge.
        feedback_events: Events of the user now.
    """

    user: str
    merged_events: int = 0
    feedback_events: int = 0


class Readiness(Response):
    """Whether the server can answer; true in a condition exactly if it can. ``checks`` says what it lacks."""

    ready: bool
    checks: Any = None

    def __bool__(self) -> bool:
        return self.ready
