"""Cohere, Jina, vLLM and TEI ↔ one ranking task. Pure functions: no clock, no state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from penchant.service.errors import InvalidRequestError
from penchant.service.schemas import BestOfNRequest, RerankRequest, ScoreRequest, TeiRequest
from penchant.service.settings import Settings

Vector = NDArray[np.float64]
MAX_WARNED: Final = 20


@dataclass(frozen=True)
class Task:
    """n texts, each to be judged as an answer to its prompt.

    Attributes:
        prompts: n prompts.
        texts: n texts.
        field: Name of the request field that held the texts.
    """

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    field: str


@dataclass(frozen=True)
class Personal:
    """Whose taste was used, as told in answers."""

    user: str | None
    feedback_events: int
    posterior_version: int

    @property
    def state(self) -> Literal["population", "personal"]:
        """`population` until the user has given feedback."""
        return "personal" if self.feedback_events else "population"


@dataclass(frozen=True)
class Ranked:
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


@dataclass(frozen=True)
class Choice:
    """Best-of-n: `[n]` in the order of the request."""

    rank_id: str
    mean: Vector
    best: Vector
    acceptable: Vector
    order: NDArray[np.int64]


# Requests → tasks


def rerank_task(request: RerankRequest, settings: Settings) -> Task:
    """The task of a Cohere, Jina or vLLM request."""
    texts = [_document_text(document, i, request.rank_fields) for i, document in enumerate(request.documents)]
    return _task((request.query,), "query", texts, "documents", settings)


def tei_task(request: TeiRequest, settings: Settings) -> Task:
    """The task of a TEI request."""
    return _task((request.query,), "query", request.texts, "texts", settings)


def score_task(request: ScoreRequest, settings: Settings) -> Task:
    """The task of a vLLM score request, 1-to-N or N-to-N."""
    if request.text_1 is not None or request.text_2 is not None:
        names, prompts, texts = ("text_1", "text_2"), request.text_1, request.text_2
    else:
        names, prompts, texts = ("queries", "documents"), request.queries, request.documents
    prompt_list, text_list = _strings(prompts, names[0]), _strings(texts, names[1])
    if len(prompt_list) not in (1, len(text_list)):
        fault = f"{len(prompt_list)} prompts do not fit {len(text_list)} texts: send one, or one a text."
        raise InvalidRequestError((f"/{names[0]}", fault))
    return _task(tuple(prompt_list), names[0], text_list, names[1], settings)


def best_of_n_task(request: BestOfNRequest, settings: Settings) -> Task:
    """The task of a best-of-n request."""
    return _task((request.prompt or "",), "prompt", request.candidates, "candidates", settings)


def _task(
    prompts: tuple[str, ...], prompt_field: str, texts: Sequence[str], field: str, settings: Settings
) -> Task:
    if len(texts) > settings.max_candidates:
        fault = f"{len(texts)} texts; a request may have {settings.max_candidates}."
        raise InvalidRequestError((f"/{field}", fault))
    for values, name, alone in ((prompts, prompt_field, len(prompts) == 1), (texts, field, False)):
        for i, text in enumerate(values):
            if len(text) > settings.max_text_chars:
                at = f"/{name}" if alone else f"/{name}/{i}"
                raise InvalidRequestError(
                    (at, f"{len(text)} characters; a text may have {settings.max_text_chars}.")
                )
    return Task(prompts if len(prompts) == len(texts) else prompts * len(texts), tuple(texts), field)


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


def _strings(value: object, name: str) -> list[str]:
    if value is None:
        raise InvalidRequestError((f"/{name}", "Field required"))
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InvalidRequestError((f"/{name}", "Send a string or a list of strings."))
    if not value:
        raise InvalidRequestError((f"/{name}", "The list is empty."))
    for i, item in enumerate(value):
        if not isinstance(item, str):
            raise InvalidRequestError((f"/{name}/{i}", "Input should be a valid string"))
    return value


# Results → answers


def truncation_warnings(task: Task, truncated: NDArray[np.bool_], max_tokens: int) -> tuple[str, ...]:
    """What `meta.warnings` says of texts that the encoder saw in part."""
    if not truncated.any():
        return ()
    indices = np.flatnonzero(truncated)
    listed = ", ".join(map(str, indices[:MAX_WARNED].tolist())) + (", …" if len(indices) > MAX_WARNED else "")
    return (f"{len(indices)} of {len(task.texts)} {task.field} truncated to {max_tokens} tokens: {listed}",)


def rerank_answer(request: RerankRequest, task: Task, ranked: Ranked, version: str) -> dict[str, Any]:
    """Cohere's answer, with `model` and `usage` for Jina's and vLLM's clients."""
    probability, std = ranked.probability.tolist(), ranked.std.tolist()
    results = []
    for i in ranked.order[: request.top_n or None].tolist():
        result: dict[str, Any] = {"index": i, "relevance_score": probability[i], "score_std": std[i]}
        if request.return_documents:
            result["document"] = {"text": task.texts[i]}
        results.append(result)
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
    if request.return_text:
        return [{"index": i, "score": scores[i], "text": task.texts[i]} for i in ranked.order.tolist()]
    return [{"index": i, "score": scores[i]} for i in ranked.order.tolist()]


def score_answer(ranked: Ranked, created: int) -> dict[str, Any]:
    """VLLM's list, in the order of the request."""
    rows = zip(ranked.mean.tolist(), ranked.std.tolist(), ranked.probability.tolist(), strict=True)
    return {
        "id": ranked.rank_id,
        "object": "list",
        "created": created,
        "model": ranked.model,
        "data": [
            {"index": i, "object": "score", "score": mean, "std": std, "probability": probability}
            for i, (mean, std, probability) in enumerate(rows)
        ],
        "usage": _usage(ranked.tokens),
    }


def best_of_n_answer(request: BestOfNRequest, choice: Choice) -> dict[str, Any]:
    """The best candidate that is good enough, and all by descending score."""
    mean, best, acceptable = choice.mean.tolist(), choice.best.tolist(), choice.acceptable.tolist()
    results = [
        {"index": i, "score": mean[i], "probability_best": best[i], "probability_acceptable": acceptable[i]}
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


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
