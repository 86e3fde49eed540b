"""What requests look like, and the models that validate them.

Types are strict (no `"3"` for 3, no `true` for 1). `null` stands for "not given" in every optional field.
Unknown fields are ignored where foreign clients call (`Lenient`), and refused elsewhere (`Exact`).
"""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from penchant.service.api.identity import MAX_USER_CHARS, user_fault

_NO_NUL: Final = r"^[^\x00]*$"  # PostgreSQL stores none
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def _check_user(user: str) -> str:
    if fault := user_fault(user):
        raise ValueError(fault)
    return user


def _check_timestamp(text: str) -> str:
    try:
        known = _RFC3339.fullmatch(text) and datetime.fromisoformat(text.upper())
    except ValueError:
        known = None
    if not known:
        raise ValueError("A timestamp is RFC 3339 with an offset, such as 2026-01-31T12:00:00Z.")
    return text


def _check_vote(value: int) -> int:
    if value not in (1, -1):
        raise ValueError("A vote is 1 or -1.")
    return value


UserId = Annotated[
    str,
    AfterValidator(_check_user),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_USER_CHARS,
            "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$",
        }
    ),
]
Document = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "object", "properties": {"text": {"type": "string"}}}],
            "description": "a text, or an object that holds it under `text` (or the keys of `rank_fields`)",
        }
    ),
]
Timestamp = Annotated[
    str, AfterValidator(_check_timestamp), WithJsonSchema({"type": "string", "format": "date-time"})
]
VoteValue = Annotated[int, AfterValidator(_check_vote), WithJsonSchema({"type": "integer", "enum": [1, -1]})]
Text = Annotated[str, Field(min_length=1)]
TextOrTexts = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
]


class Lenient(BaseModel):
    """Ignores fields it does not know."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class Exact(BaseModel):
    """Refuses fields it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class RerankRequest(Lenient):
    """Candidates to be ranked for a user (Cohere v1 and v2, Jina, vLLM)."""

    model: str | None = None
    query: str
    documents: list[Document] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=0, description="how many results; absent or 0 means all")
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    max_tokens_per_doc: int | None = Field(
        None, description="accepted and not used: see GET /v1/models for limits"
    )
    priority: int | None = Field(default=None, description="accepted and not used")
    explain: bool | None = Field(default=None, description="an `explanation` in each result")
    user: UserId | None = None


class TeiRequest(Lenient):
    """Texts to be ranked for a user (text-embeddings-inference)."""

    model: str | None = None
    query: str
    texts: list[str] = Field(min_length=1)
    raw_scores: bool | None = Field(default=None, description="utilities in place of probabilities")
    return_text: bool | None = None
    truncate: bool | None = Field(default=None, description="accepted; long texts are always truncated")
    explain: bool | None = Field(default=None, description="an `explanation` in each result")
    user: UserId | None = None


class ScoreRequest(Lenient):
    """Pairs to be scored (vLLM): one prompt for all texts, or as many prompts as texts; for one user or for several."""

    model: str | None = None
    text_1: TextOrTexts = None
    text_2: TextOrTexts = None
    queries: TextOrTexts = None
    documents: TextOrTexts = None
    explain: bool | None = Field(default=None, description="an `explanation` in each result")
    user: UserId | None = None
    users: list[UserId] | None = Field(
        default=None,
        min_length=1,
        description="score the same texts for each of these; no other user is named",
    )


class BestOfNRequest(Exact):
    """Candidates of which one is to be chosen for a user."""

    user: UserId | None = None
    prompt: str | None = None
    candidates: list[str] = Field(min_length=1)
    strategy: Literal["mean"] | None = None
    accept_threshold: float | None = Field(
        None, ge=0, le=1, description="least `probability_acceptable` of the best"
    )
    n_return: int | None = Field(default=None, ge=0, description="how many results; absent or 0 means all")
    explain: bool | None = Field(default=None, description="an `explanation` in each result")


class Event(Exact):
    """What every kind of feedback event has."""

    event_id: str | None = Field(
        default=None, min_length=1, max_length=128, pattern=_NO_NUL, description="makes the event idempotent"
    )
    user: UserId | None = None
    rank_id: str | None = Field(default=None, min_length=1, max_length=64, pattern=_NO_NUL)
    timestamp: Timestamp | None = Field(default=None, description="RFC 3339, with offset")
    source: str | None = Field(default=None, min_length=1, max_length=64, pattern=_NO_NUL)
    weight: float | None = Field(default=None, gt=0, le=1)
    metadata: dict[str, Any] | None = None


class MergeRequest(Exact):
    """A provisional user who turns out to be somebody known."""

    source: UserId = Field(alias="from", description="whose feedback is given to the user of the path")


class PreferenceEvent(Event):
    """The user prefers one text to another."""

    type: Literal["preference"]
    prompt: str | None = None
    chosen: Text
    rejected: Text
    strength: float | None = Field(default=None, gt=0, le=1, description="multiplies `weight`")


class ChoiceEvent(Event):
    """The user picked one of those shown: given in full, or the candidates of a ranking."""

    type: Literal["choice"]
    prompt: str | None = None
    candidates: list[Text] | None = Field(default=None, min_length=2, description="all that were shown")
    index: int = Field(ge=0, description="the one picked, among `candidates` or those of the ranking")
    seen: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        description="with `rank_id`: the candidates that were seen, all unless given; the one picked is implied",
    )


class RankingEvent(Event):
    """The user put texts in order."""

    type: Literal["ranking"]
    prompt: str | None = None
    order: list[Annotated[list[Text], Field(min_length=1)]] = Field(
        min_length=1, description="best first; texts in one list are tied"
    )


class EditEvent(Event):
    """The user rewrote a text: the edited one is better, by how much it changed. No change says nothing."""

    type: Literal["edit"]
    prompt: str | None = None
    original: Text
    edited: Text


class RetractEvent(Event):
    """The user takes an event back: from now on it is as if it had never been sent.

    A retraction can be taken back too. Taking back what is taken back already changes nothing; then the event counts
    again only when all of its retractions are taken back.
    """

    type: Literal["retract"]
    target_event_id: str = Field(min_length=1, max_length=128, pattern=_NO_NUL)


class TextEvent(Event):
    """A judgement of one text, given in full or as a candidate of a ranking."""

    prompt: str | None = None
    text: Text | None = None
    index: int | None = Field(default=None, ge=0)


class VoteEvent(TextEvent):
    """The user finds a text good enough (1) or not (-1)."""

    type: Literal["vote"]
    value: VoteValue


class RatingEvent(TextEvent):
    """The user rates a text within a scale."""

    type: Literal["rating"]
    value: float
    scale: list[float] = Field(min_length=2, max_length=2, description="[lowest, highest]")


AnyEvent = Annotated[
    PreferenceEvent | ChoiceEvent | RankingEvent | VoteEvent | RatingEvent | EditEvent | RetractEvent,
    Field(discriminator="type"),
]


class FeedbackBatch(Exact):
    """Events in the order in which they happened."""

    events: list[Any] = Field(min_length=1)
