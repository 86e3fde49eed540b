"""Models of the server's responses. They keep unknown fields, so that the SDK works with newer servers."""

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
    """Base of all response models. Instances are immutable and keep unknown fields as attributes."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


ResponseT = TypeVar("ResponseT", bound=Response)


class Usage(Response):
    """Number of tokens in the request."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class Personalization(Response):
    """Whose taste a ranking follows, and how much feedback that taste was learned from.

    Attributes:
        user: User whose taste counted, or None for the population.
        state: ``population`` if nothing is known of the user, else ``personal``.
        feedback_events: Number of events that the user's state was learned from.
        posterior_version: Version of the user's state. It grows with each event and joins rankings to logs.
    """

    user: str | None = None
    state: str = "population"
    feedback_events: int = 0
    posterior_version: int | str | None = None


class Document(Response):
    """Text of a ranked document, present if ``return_documents`` was set."""

    text: str


class Part(Response):
    """One term of a utility.

    Attributes:
        name: Name of an attribute of the text, or ``relevance`` (how closely it answers the prompt), ``content``,
            ``memory``, ``constant`` (shared) or ``threshold`` (personal).
        personal: Whether the term is this user's difference from the population, rather than taste that all share.
        label: Description in plain language. For an attribute and ``relevance``, it tells in which direction the
            candidate stands out.
        value: Value in units of utility.
        std: Standard deviation of the value, given what is known of the user. 0 for shared taste.
    """

    name: str
    personal: bool
    label: str | None = None
    value: float
    std: float = 0.0


class Explanation(Response):
    """Why a candidate got its utility, and what moved it up or down for this user.

    Attributes:
        utility: Posterior mean of the utility. The values of ``parts`` add up to it.
        parts: Shared and personal terms, largest absolute value first.
        shift: How far the candidate moved for this user, relative to the other candidates. The values of ``moved`` add
            up to it.
        moved: Personal terms of the shift, largest absolute value first.
        population_rank: Rank of the candidate for the population, counted from 1.
    """

    utility: float
    parts: list[Part]
    shift: float = 0.0
    moved: list[Part] = Field(default_factory=list)
    population_rank: int | None = None


class RankedDocument(Response):
    """One document of a ranking.

    Attributes:
        index: Index of the document in the request's ``documents``.
        relevance_score: P(the user prefers the document to the population's median answer), in [0, 1].
        score_std: Standard deviation of the document's utility, or None if the server does not report it.
        document: The text, if ``return_documents`` was set.
        explanation: The explanation, if ``explain`` was set.
    """

    index: int
    relevance_score: float
    score_std: float | None = None
    document: Document | None = None
    explanation: Explanation | None = None


class RankingMeta(Response):
    """Information about a ranking.

    Attributes:
        personalization: Whose taste the ranking follows.
        warnings: Warnings of the server, for example about texts that were cut.
    """

    personalization: Personalization = Field(default_factory=Personalization)
    warnings: list[Any] = Field(default_factory=list)


class Ranking(Response):
    """Documents in a user's order of preference.

    Attributes:
        id: Id of the ranking. For a day, feedback on these documents can name it as ``rank_id``.
        model: Name of the model that ranked.
        results: Documents, best first.
        meta: Whose taste the ranking follows, and warnings.
        usage: Number of tokens in the request.
    """

    id: str
    model: str | None = None
    results: list[RankedDocument]
    meta: RankingMeta = Field(default_factory=RankingMeta)
    usage: Usage = Field(default_factory=Usage)

    @property
    def order(self) -> list[int]:
        """Indices of the documents in the request, best first."""
        return [result.index for result in self.results]


class Score(Response):
    """Utility of one text.

    Attributes:
        index: Index of the text in the request's ``documents``.
        score: Posterior mean of the utility, raw and unbounded.
        std: Standard deviation of the utility, or None if the server does not report it.
        probability: P(the user prefers the text to the population's median answer), or None if not reported.
        explanation: The explanation, if ``explain`` was set.
    """

    index: int
    score: float
    std: float | None = None
    probability: float | None = None
    explanation: Explanation | None = None


class Scores(Response):
    """Utilities of texts.

    Attributes:
        id: Id of the request. For a day, feedback on these texts can name it as ``rank_id``.
        model: Name of the model that scored.
        data: Scores in the order of the request.
        usage: Number of tokens in the request.
    """

    id: str
    model: str | None = None
    data: list[Score]
    usage: Usage = Field(default_factory=Usage)


class Candidate(Response):
    """One candidate of best-of-n.

    Attributes:
        index: Index of the candidate in the request's ``candidates``.
        score: Posterior mean of the utility.
        probability_best: P(the candidate has the highest utility of all candidates).
        probability_acceptable: P(the user finds the candidate good enough, that is, would vote +1).
        explanation: The explanation, if ``explain`` was set.
    """

    index: int
    score: float
    probability_best: float
    probability_acceptable: float
    explanation: Explanation | None = None


class BestOfN(Response):
    """The best of several candidates, if it is good enough.

    Attributes:
        id: Id of the request. For a day, feedback on these candidates can name it as ``rank_id``.
        best: Candidate to show, or None if no candidate reaches ``accept_threshold``.
        accepted: Whether a candidate reaches the threshold.
        results: Candidates, highest score first.
    """

    id: str
    best: Candidate | None = None
    accepted: bool
    results: list[Candidate]


class RejectedEvent(Response):
    """An event of a batch that was not learned.

    Attributes:
        index: Index of the event in the request's ``events``.
        problem: Problem details that say what is wrong with the event.
    """

    index: int
    problem: Any


class TouchedUser(Response):
    """State of a user after the request.

    Attributes:
        user: User id.
        posterior_version: Version of the user's state, which grows with each event.
        feedback_events: Number of events that the state was learned from.
    """

    user: str
    posterior_version: int | str | None = None
    feedback_events: int = 0


class FeedbackReceipt(Response):
    """Result of sending feedback. Accepted events are on disk, and the user's next ranking reflects them.

    Attributes:
        accepted: Number of events that were learned.
        duplicates: Number of events that were already known and are not counted again.
        rejected: Events that are invalid.
        users: State of each user whose events were accepted or already known.
    """

    accepted: int
    duplicates: int = 0
    rejected: list[RejectedEvent] = Field(default_factory=list)
    users: list[TouchedUser] = Field(default_factory=list)


class AttributeReason(Response):
    """How much more, or less, the user likes one attribute of a text than the population does.

    Attributes:
        name: Name of the attribute, or ``relevance``: how closely a text answers its prompt.
        label: Which direction of the attribute the user prefers, in plain language.
        effect: Effect on the utility of one standard deviation more of the attribute, all else being equal.
        std: Standard deviation of the effect.
        probability: P(effect > 0).
        told: Whether the reason is certain enough to be named to the user.
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
        text: The text.
        prompt: Prompt that the text answers.
        value: Difference from the population, in units of utility.
        std: Standard deviation of the difference.
        probability: P(value > 0).
    """

    text: str
    prompt: str = ""
    value: float
    std: float | None = None
    probability: float | None = None


class Reasons(Response):
    """How a user differs from the population.

    Attributes:
        attributes: Attributes of texts. Those that are ``told`` come first.
        texts: Texts that the user judged, highest value first.
    """

    attributes: list[AttributeReason] = Field(default_factory=list)
    texts: list[TextReason] = Field(default_factory=list)


class User(Response):
    """What is known of a user. The server may return more fields than are listed here.

    Attributes:
        user: User id.
        state: ``personal``, or ``population`` if nothing is known of the user.
        feedback_events: Number of events that the state was learned from.
        posterior_version: Version of the state. It grows with each event.
        archetype_weights: Weights of the archetypes that the user resembles. They add up to 1.
        reasons: How the user differs from the population, or None if the server does not report it.
    """

    user: str
    state: str
    feedback_events: int = 0
    posterior_version: int | str | None = None
    archetype_weights: list[float] = Field(default_factory=list)
    reasons: Reasons | None = None


class Listing(Response, Generic[ResponseT]):
    """One page of a list as the server returns it. A list without a cursor is complete.

    Attributes:
        data: Items of the page.
        has_more: Whether another page follows.
        next_cursor: Cursor of the next page, if there is one.
    """

    data: tuple[ResponseT, ...]
    has_more: bool = False
    next_cursor: str | None = None

    @property
    def cursor(self) -> str | None:
        """Cursor of the next page. None on the last page."""
        return self.next_cursor if self.has_more else None


class ModelCard(Response):
    """A model that a ranking may name. Its limits are kept as additional fields.

    Attributes:
        id: Name of the model.
    """

    id: str


class LoggedEvent(Response):
    """An event in a user's log.

    Attributes:
        event_id: Id of the event.
        event: The event as it was sent.
    """

    event_id: str
    event: dict[str, Any]


class UserExport(Response):
    """All data that the server holds on a user. The server may return more fields than are listed here.

    Attributes:
        user: User id.
        events: Feedback log, oldest event first.
        states: State of the user under each bundle.
        rankings: Rankings that the user was shown.
        stored_answers: What stored idempotent responses contain about the user.
    """

    user: str
    events: list[LoggedEvent] = Field(default_factory=list)
    states: list[dict[str, Any]] = Field(default_factory=list)
    rankings: list[dict[str, Any]] = Field(default_factory=list)
    stored_answers: list[dict[str, Any]] = Field(default_factory=list)


class Merged(Response):
    """State of a user after a merge.

    Attributes:
        user: Id of the user that received the feedback.
        merged_events: Number of events that were moved. 0 if there was nothing to merge.
        feedback_events: Number of events that the user has after the merge.
    """

    user: str
    merged_events: int = 0
    feedback_events: int = 0


class Readiness(Response):
    """Whether the server can serve requests. An instance is true in a condition if it can.

    Attributes:
        ready: Whether the server can serve requests.
        checks: Result of each check of the server.
    """

    ready: bool
    checks: Any = None

    def __bool__(self) -> bool:
        return self.ready
