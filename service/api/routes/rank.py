"""Ranking routes. Each is: who → task → result → the dialect's answer."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.api.body import read_object
from penchant.service.api.context import (
    json_answer,
    ranking_user,
    runtime,
    served_model,
    spend_candidates,
    tenant,
)
from penchant.service.api.dialects.best_of_n import (
    BestOfNRequest,
    BestOfNResponse,
    best_of_n_answer,
    best_of_n_task,
)
from penchant.service.api.dialects.cohere import RerankRequest, RerankResponse, rerank_answer, rerank_task
from penchant.service.api.dialects.tei import TeiRequest, TeiResult, tei_answer, tei_task
from penchant.service.api.dialects.vllm import (
    ScoreRequest,
    ScoreResponse,
    score_answer,
    score_task,
    score_users,
)
from penchant.service.api.openapi import describe
from penchant.service.api.routing import LeanRouter
from penchant.service.telemetry.metrics import Timings
from penchant.service.validation import validate

router = LeanRouter(tags=["ranking"], per_user=True)

_RERANK = describe("ranking", RerankResponse, RerankRequest)


@router.post(
    "/v1/rerank", scope=Scope.RANK, summary="Rank documents for a user (Cohere v1, Jina, vLLM)", **_RERANK
)
async def rerank_v1(request: Request) -> Response:
    """Documents by the probability that this user prefers them to the population's median answer."""
    return await _rerank(request, await _body(request), "1")


@router.post("/v2/rerank", scope=Scope.RANK, summary="Rank documents for a user (Cohere v2)", **_RERANK)
async def rerank_v2(request: Request) -> Response:
    """As `/v1/rerank`."""
    return await _rerank(request, await _body(request), "2")


@router.post(
    "/rerank",
    scope=Scope.RANK,
    summary="Rank documents or texts for a user (Cohere, Jina, vLLM; TEI where `texts` is sent)",
    **describe("ranking", (RerankResponse, list[TeiResult]), (RerankRequest, TeiRequest)),
)
async def rerank_short(request: Request) -> Response:
    """As `/v2/rerank`; a body with `texts` in place of `documents` gets TEI's bare array."""
    body = await _body(request)
    if body.get("texts") is not None and body.get("documents") is None:
        return await _tei(request, body)
    return await _rerank(request, body, "2")


@router.post(
    "/score",
    scope=Scope.RANK,
    summary="Score texts for a user (vLLM)",
    **describe("ranking", ScoreResponse, ScoreRequest),
)
async def score_short(request: Request) -> Response:
    """As `/v1/score`."""
    return await _score(request)


@router.post(
    "/v1/score",
    scope=Scope.RANK,
    summary="Score texts for a user (vLLM)",
    **describe("ranking", ScoreResponse, ScoreRequest),
)
async def score(request: Request) -> Response:
    """The utility of each text for this user, or for each of `users`, in the order of the request."""
    return await _score(request)


@router.post(
    "/v1/best-of-n",
    scope=Scope.RANK,
    summary="Choose the best candidate for a user",
    **describe("ranking", BestOfNResponse, BestOfNRequest),
)
async def best_of_n(request: Request) -> Response:
    """The candidate with the highest utility, if it is good enough, and how sure that is."""
    served, owner = runtime(request), tenant(request)
    asked = validate(BestOfNRequest, await read_object(request, served.settings))
    user = ranking_user(request, asked.user, None)
    task = best_of_n_task(asked, served.settings)
    spend_candidates(request, len(task.texts))
    timings = Timings()
    choice = await served_model(request).scorer.best_of_n(
        owner, user, task, timings, explain=bool(asked.explain)
    )
    return json_answer(best_of_n_answer(asked, choice), timings)


async def _body(request: Request) -> dict[str, Any]:
    tenant(request)  # a stranger's body is not read
    return await read_object(request, runtime(request).settings)


async def _rerank(request: Request, body: dict[str, Any], version: str) -> Response:
    served, owner = runtime(request), tenant(request)
    asked = validate(RerankRequest, body)
    user = ranking_user(request, asked.user, asked.model)
    task = rerank_task(asked, served.settings)
    spend_candidates(request, len(task.texts))
    timings = Timings()
    explain = (asked.top_n or len(task.texts)) if asked.explain else 0
    ranked = await served_model(request).scorer.rank(owner, user, task, timings, explain=explain)
    return json_answer(rerank_answer(asked, task, ranked, version), timings)


async def _tei(request: Request, body: dict[str, Any]) -> Response:
    served, owner = runtime(request), tenant(request)
    asked = validate(TeiRequest, body)
    user = ranking_user(request, asked.user, asked.model)
    task = tei_task(asked, served.settings)
    spend_candidates(request, len(task.texts))
    timings = Timings()
    explain = len(task.texts) if asked.explain else 0
    ranked = await served_model(request).scorer.rank(
        owner, user, task, timings, by_utility=bool(asked.raw_scores), explain=explain
    )
    return json_answer(tei_answer(asked, task, ranked), timings, {"X-Rank-Id": ranked.rank_id})


async def _score(request: Request) -> Response:
    served, owner = runtime(request), tenant(request)
    asked = validate(ScoreRequest, await read_object(request, served.settings))
    user = ranking_user(request, asked.user, asked.model)
    task = score_task(asked, served.settings)
    users = score_users(asked, user, len(task.texts), served.settings)
    spend_candidates(request, len(task.texts) * len(users))
    timings = Timings()
    explain = len(task.texts) if asked.explain else 0
    ranked = await served_model(request).scorer.score(owner, users, task, timings, explain=explain)
    return json_answer(
        score_answer(ranked, int(served.store.clock()), named=asked.users is not None), timings
    )
