"""`/v1/rerank`, `/v2/rerank` and `/rerank`, in the dialect of Cohere, Jina and vLLM."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from penchant.service.api.answers.base import Answer
from penchant.service.api.answers.ranking import EXPLANATION, Explanation, Usage
from penchant.service.errors import InvalidRequestError
from penchant.service.ranking.results import RankingResult, Task, add_explanation, check_number, format_usage
from penchant.service.settings import Settings
from penchant.service.validation import (
    Integer,
    LenientModel,
    LimitedText,
    NonNegativeInteger,
    PersonalizationStrength,
    PositiveInteger,
    UserId,
)

_TEXT: Final[JsonDict] = {"type": "string", "maxLength": "max_text_chars"}
Document = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [_TEXT, {"type": "object"}],
            "description": "a text, or an object that holds it under `text` (or the keys of `rank_fields`)",
        }
    ),
]
_TEXT_UNLESS_RANK_FIELDS: Final[JsonDict] = {
    "if": {"required": ["rank_fields"], "properties": {"rank_fields": {"type": "array", "minItems": 1}}},
    "else": {"properties": {"documents": {"items": {"required": ["text"], "properties": {"text": _TEXT}}}}},
}


class RerankRequest(LenientModel):
    """Candidates to rank for a user (Cohere v1 and v2, Jina, vLLM)."""

    model_config = ConfigDict(json_schema_extra=_TEXT_UNLESS_RANK_FIELDS)

    model: str | None = None
    query: LimitedText
    documents: list[Document] = Field(min_length=1, json_schema_extra={"maxItems": "max_candidates"})
    top_n: NonNegativeInteger | None = Field(
        default=None, description="number of results; absent or 0 means all"
    )
    return_documents: bool | None = None
    rank_fields: list[str] | None = Field(
        default=None,
        fail_fast=True,
        description="keys whose texts are ranked; each document that is an object has at least one of them",
    )
    max_tokens_per_doc: PositiveInteger | None = Field(
        default=None,
        description="tokens of the encoder to which each document is cut; absent means that only the limits of "
        "GET /v1/models apply",
    )
    priority: Integer | None = Field(default=None, description="accepted and ignored")
    explain: bool | None = Field(default=None, description="an `explanation` in each result")
    personalization: PersonalizationStrength = None
    user: UserId | None = None


def build_rerank_task(request: RerankRequest, settings: Settings) -> Task:
    """Return the task of a request."""
    check_number(len(request.documents), "documents", settings)
    texts = [_document_text(document, i, request.rank_fields) for i, document in enumerate(request.documents)]
    return Task.within_limits((request.query,), "query", texts, "documents", settings)


def _document_text(document: object, index: int, rank_fields: Sequence[str] | None) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict):
        if rank_fields:
            parts = [document[name] for name in rank_fields if isinstance(document.get(name), str)]
            if parts:
                return "\n".join(parts)
            raise InvalidRequestError(
                (f"/documents/{index}", "None of `rank_fields` is a text in this document.")
            )
        text = document.get("text")
        if isinstance(text, str):
            return text
        raise InvalidRequestError((f"/documents/{index}/text", "A document needs a text under `text`."))
    raise InvalidRequestError((f"/documents/{index}", "A document is a string or an object with `text`."))


class DocumentText(Answer):
    """A ranked text."""

    text: str


class RerankResult(Answer):
    """One candidate. `relevance_score` is P(the user prefers it to the population's median answer)."""

    index: int
    relevance_score: float = Field(ge=0, le=1)
    score_std: float = Field(description="standard deviation of the candidate's utility")
    document: DocumentText | None = Field(default=None, description="absent unless asked for")
    explanation: Explanation | None = EXPLANATION


class ApiVersion(Answer):
    """Version of the dialect."""

    version: str


class BilledUnits(Answer):
    """Each request counts as one search."""

    search_units: int


class Tokens(Answer):
    """Tokens of the texts, including those of cached texts. A query that is read on its own does not count."""

    input_tokens: int
    output_tokens: int


class Personalization(Answer):
    """The user of the request, and what is known about that user."""

    user: str | None
    state: Literal["population", "personal"] = Field(
        description="`personal` if anything was learned about the user, even if the request sets `personalization` to 0"
    )
    feedback_events: int
    posterior_version: int


class Meta(Answer):
    """Information about the answer."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens
    warnings: list[str]
    personalization: Personalization


class RerankResponse(Answer):
    """Candidates, best first."""

    id: str
    model: str
    results: list[RerankResult]
    meta: Meta
    usage: Usage


def build_rerank_answer(
    request: RerankRequest, task: Task, ranked: RankingResult, version: str, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return Cohere's answer, with `model` and `usage` for clients of Jina and vLLM.

    Args:
        request: The request.
        task: Task with the documents as they were sent.
        ranked: Ranking of the documents.
        version: Version of the dialect.
        warnings: Warnings in addition to those of the ranking.
    """
    probability, std = ranked.probability.tolist(), ranked.std.tolist()
    results = []
    for i in ranked.order[: request.top_n or None].tolist():
        result: dict[str, Any] = {"index": i, "relevance_score": probability[i], "score_std": std[i]}
        if request.return_documents:
            result["document"] = {"text": task.texts[i]}
        results.append(add_explanation(result, ranked.explanations))
    user = ranked.user
    return {
        "id": ranked.rank_id,
        "model": ranked.model,
        "results": results,
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": ranked.tokens, "output_tokens": 0},
            "warnings": [*warnings, *ranked.warnings],
            "personalization": {
                "user": user.user_id,
                "state": user.state,
                "feedback_events": user.feedback_events,
                "posterior_version": user.posterior_version,
            },
        },
        "usage": format_usage(ranked.tokens),
    }
