"""`/rerank` with `texts`, in the dialect of text-embeddings-inference."""

from typing import Any

from pydantic import Field

from penchant.service.api.answers.base import Answer
from penchant.service.api.answers.ranking import EXPLANATION, Explanation
from penchant.service.ranking.results import RankingResult, Task, add_explanation
from penchant.service.settings import Settings
from penchant.service.validation import LenientModel, LimitedText, PersonalizationStrength, UserId


class TeiRequest(LenientModel):
    """Texts to rank for a user (text-embeddings-inference)."""

    model: str | None = None
    query: LimitedText
    texts: list[LimitedText] = Field(
        min_length=1, fail_fast=True, json_schema_extra={"maxItems": "max_candidates"}
    )
    documents: None = Field(default=None, description="with `documents`, it is a request of Cohere's")
    raw_scores: bool | None = Field(default=None, description="utilities in place of probabilities")
    return_text: bool | None = None
    truncate: bool | None = Field(default=None, description="accepted; long texts are always truncated")
    explain: bool | None = Field(default=None, description="an `explanation` in each result")
    personalization: PersonalizationStrength = None
    user: UserId | None = None


def build_tei_task(request: TeiRequest, settings: Settings) -> Task:
    """Return the task of a request."""
    return Task.within_limits((request.query,), "query", request.texts, "texts", settings)


class TeiResult(Answer):
    """One candidate."""

    index: int
    score: float
    text: str | None = Field(default=None, description="absent unless asked for")
    explanation: Explanation | None = EXPLANATION


def build_tei_answer(request: TeiRequest, task: Task, ranked: RankingResult) -> list[dict[str, Any]]:
    """Return TEI's bare array."""
    scores = (ranked.mean if request.raw_scores else ranked.probability).tolist()
    results = []
    for i in ranked.order.tolist():
        result: dict[str, Any] = {"index": i, "score": scores[i]}
        if request.return_text:
            result["text"] = task.texts[i]
        results.append(add_explanation(result, ranked.explanations))
    return results
