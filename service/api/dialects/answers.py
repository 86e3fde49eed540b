"""One ranking's result → the answers of Cohere, Jina, vLLM and TEI. Pure functions: no clock, no state."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penchant.service.api.dialects.tasks import Task
from penchant.service.feedback.schemas import BestOfNRequest, RerankRequest, TeiRequest

Vector = NDArray[np.float64]
Explanations = Mapping[int, Mapping[str, Any]]
MAX_WARNED: Final = 20


class Personal(NamedTuple):
    """Whose taste was used, as told in answers."""

    user: str | None
    is_personal: bool = False
    feedback_events: int = 0
    posterior_version: int = 0

    @property
    def state(self) -> Literal["population", "personal"]:
        """`population` until something was learned of the user."""
        return "personal" if self.is_personal else "population"


class Ranked(NamedTuple):
    """A task's result, all arrays in the order of the request.

    Attributes:
        rank_id: Join key for feedback.
        model: Bundle that ranked.
        personal: Whose taste.
        mean: `[n]` utility.
        std: `[n]` its standard deviation.
        probability: `[n]` relevance: P(the user prefers the text to the reference answer).
        order: `[n]` indices, best first, by whatever the dialect sorts by.
        tokens: Tokens read.
        warnings: For the caller.
        explanations: By index of the text, of those that are to be explained.
    """

    rank_id: str
    model: str
    personal: Personal
    mean: Vector
    std: Vector
    probability: Vector
    order: NDArray[np.int64]
    tokens: int
    warnings: tuple[str, ...]
    explanations: Explanations


class Choice(NamedTuple):
    """Best-of-n: `[n]` in the order of the request."""

    rank_id: str
    mean: Vector
    best: Vector
    acceptable: Vector
    order: NDArray[np.int64]
    explanations: Explanations


def truncation_warnings(task: Task, truncated: Sequence[int], max_tokens: int) -> tuple[str, ...]:
    """What `meta.warnings` says of texts that the encoder saw in part."""
    if not truncated:
        return ()
    listed = ", ".join(map(str, truncated[:MAX_WARNED])) + (", …" if len(truncated) > MAX_WARNED else "")
    return (f"{len(truncated)} of {len(task.texts)} {task.field} truncated to {max_tokens} tokens: {listed}",)


def rerank_answer(request: RerankRequest, task: Task, ranked: Ranked, version: str) -> dict[str, Any]:
    """Cohere's answer, with `model` and `usage` for Jina's and vLLM's clients."""
    probability, std = ranked.probability.tolist(), ranked.std.tolist()
    results = []
    for i in ranked.order[: request.top_n or None].tolist():
        result: dict[str, Any] = {"index": i, "relevance_score": probability[i], "score_std": std[i]}
        if request.return_documents:
            result["document"] = {"text": task.texts[i]}
        results.append(_explained(result, ranked.explanations))
    personal = ranked.personal
    return {
        "id": ranked.rank_id,
        "model": ranked.model,
        "results": results,
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": ranked.tokens, "output_tokens": 0},
            "warnings": ranked.warnings,
            "personalization": {
                "user": personal.user,
                "state": personal.state,
                "feedback_events": personal.feedback_events,
                "posterior_version": personal.posterior_version,
            },
        },
        "usage": _usage(ranked.tokens),
    }


def tei_answer(request: TeiRequest, task: Task, ranked: Ranked) -> list[dict[str, Any]]:
    """TEI's bare array."""
    scores = (ranked.mean if request.raw_scores else ranked.probability).tolist()
    results = []
    for i in ranked.order.tolist():
        result: dict[str, Any] = {"index": i, "score": scores[i]}
        if request.return_text:
            result["text"] = task.texts[i]
        results.append(_explained(result, ranked.explanations))
    return results


def score_answer(answers: Sequence[Ranked], created: int, *, named: bool = False) -> dict[str, Any]:
    """VLLM's list, in the order of the request; `named` where each entry says whose it is."""
    first = answers[0]
    return {
        "id": first.rank_id,
        "object": "list",
        "created": created,
        "model": first.model,
        "data": [entry for ranked in answers for entry in _scored(ranked, named)],
        "usage": _usage(first.tokens),
    }


def _scored(ranked: Ranked, named: bool) -> list[dict[str, Any]]:
    rows = zip(ranked.mean.tolist(), ranked.std.tolist(), ranked.probability.tolist(), strict=True)
    whose = {"user": ranked.personal.user} if named else {}
    return [
        _explained(
            {"index": i, "object": "score", "score": mean, "std": std, "probability": probability, **whose},
            ranked.explanations,
        )
        for i, (mean, std, probability) in enumerate(rows)
    ]


def best_of_n_answer(request: BestOfNRequest, choice: Choice) -> dict[str, Any]:
    """The best candidate that is good enough, and all by descending score."""
    mean, best, acceptable = choice.mean.tolist(), choice.best.tolist(), choice.acceptable.tolist()
    results = [
        _explained(
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


def _explained(result: dict[str, Any], explanations: Explanations) -> dict[str, Any]:
    explanation = explanations.get(result["index"])
    return result if explanation is None else {**result, "explanation": explanation}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
