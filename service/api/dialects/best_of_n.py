"""`/v1/best-of-n`: the best of several candidates, if it is good enough."""

from typing import Any, Literal

from pydantic import Field

from penchant.service.api.answers.base import Answer
from penchant.service.api.answers.ranking import EXPLANATION, Explanation
from penchant.service.ranking.results import ChoiceResult, Task, add_explanation
from penchant.service.settings import Settings
from penchant.service.validation import (
    ExactModel,
    LimitedText,
    NonNegativeInteger,
    PersonalizationStrength,
    UserId,
)


class BestOfNRequest(ExactModel):
    """Candidates from which one is chosen for a user."""

    user: UserId | None = None
    prompt: LimitedText | None = None
    candidates: list[LimitedText] = Field(
        min_length=1, fail_fast=True, json_schema_extra={"maxItems": "max_candidates"}
    )
    strategy: Literal["mean"] | None = None
    accept_threshold: float | None = Field(
        None, ge=0, le=1, description="smallest `probability_acceptable` of a candidate that may be chosen"
    )
    n_return: NonNegativeInteger | None = Field(
        default=None, description="number of results; absent or 0 means all"
    )
    explain: bool | None = Field(default=None, description="an `explanation` in each result")
    personalization: PersonalizationStrength = None


def build_best_of_n_task(request: BestOfNRequest, settings: Settings) -> Task:
    """Return the task of a request."""
    return Task.within_limits((request.prompt or "",), "prompt", request.candidates, "candidates", settings)


class CandidateScore(Answer):
    """One candidate. `score` is its mean utility."""

    index: int
    score: float
    probability_best: float = Field(ge=0, le=1)
    probability_acceptable: float = Field(ge=0, le=1)
    explanation: Explanation | None = EXPLANATION


class BestOfNResponse(Answer):
    """The choice, and the candidates by descending score. `best` is null if none is good enough."""

    id: str
    best: CandidateScore | None
    accepted: bool
    results: list[CandidateScore]


def build_best_of_n_answer(request: BestOfNRequest, choice: ChoiceResult) -> dict[str, Any]:
    """Return the answer: the best candidate if it is good enough, and all candidates by descending score."""
    mean, best, acceptable = choice.mean.tolist(), choice.best.tolist(), choice.acceptable.tolist()
    results = [
        add_explanation(
            {
                "index": i,
                "score": mean[i],
                "probability_best": best[i],
                "probability_acceptable": acceptable[i],
            },
            choice.explanations,
        )
        for i in choice.order.tolist()
    ]
    threshold = request.accept_threshold or 0.0
    chosen = next((result for result in results if result["probability_acceptable"] >= threshold), None)
    return {
        "id": choice.rank_id,
        "best": chosen,
        "accepted": chosen is not None,
        "results": results[: request.n_return or None],
    }
