"""Ranking routes. Each one goes from the caller to a task, from the task to its result, and to the dialect's answer."""

import asyncio
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.api.body import read_body, read_model
from penchant.service.api.context import (
    authorize,
    get_runtime,
    get_served_model,
    json_response,
    resolve_ranking_user,
    spend_candidates,
)
from penchant.service.api.dialects.best_of_n import (
    BestOfNRequest,
    BestOfNResponse,
    build_best_of_n_answer,
    build_best_of_n_task,
)
from penchant.service.api.dialects.cohere import (
    RerankRequest,
    RerankResponse,
    build_rerank_answer,
    build_rerank_task,
)
from penchant.service.api.dialects.tei import TeiRequest, TeiResult, build_tei_answer, build_tei_task
from penchant.service.api.dialects.vllm import (
    ScoreRequest,
    ScoreResponse,
    build_score_answer,
    build_score_task,
    select_users,
)
from penchant.service.api.openapi import describe_route
from penchant.service.api.routing import LeanRouter
from penchant.service.ranking.cutting import cut_texts
from penchant.service.ranking.scoring import INLINE_SCORES
from penchant.service.settings import Settings
from penchant.service.telemetry.metrics import Timings
from penchant.service.validation import validate

router = LeanRouter(tags=["ranking"], per_user=True)

_RERANK = describe_route("ranking", RerankResponse, RerankRequest)


@router.post(
    "/v1/rerank", scope=Scope.RANK, summary="Rank documents for a user (Cohere v1, Jina, vLLM)", **_RERANK
)
async def rerank_v1(request: Request) -> Response:
    """Rank documents by the probability that this user prefers them to the population's median answer."""
    return await _rerank(request, await _read_rerank(request), "1")


@router.post("/v2/rerank", scope=Scope.RANK, summary="Rank documents for a user (Cohere v2)", **_RERANK)
async def rerank_v2(request: Request) -> Response:
    """Same as `/v1/rerank`."""
    return await _rerank(request, await _read_rerank(request), "2")


@router.post(
    "/rerank",
    scope=Scope.RANK,
    summary="Rank documents or texts for a user (Cohere, Jina, vLLM; TEI if `texts` is sent)",
    **describe_route("ranking", (RerankResponse, list[TeiResult]), (RerankRequest, TeiRequest)),
)
async def rerank_short(request: Request) -> Response:
    """Same as `/v2/rerank`. A body with `texts` in place of `documents` gets TEI's bare array."""
    authorize(request)  # before the body is read
    body = await read_body(request, get_runtime(request).settings, _parse_rerank_or_tei)
    if isinstance(body, TeiRequest):
        return await _tei(request, body)
    return await _rerank(request, body, "2")


@router.post(
    "/score",
    scope=Scope.RANK,
    summary="Score texts for a user (vLLM)",
    **describe_route("ranking", ScoreResponse, ScoreRequest),
)
async def score_short(request: Request) -> Response:
    """Same as `/v1/score`."""
    return await _score(request)


@router.post(
    "/v1/score",
    scope=Scope.RANK,
    summary="Score texts for a user (vLLM)",
    **describe_route("ranking", ScoreResponse, ScoreRequest),
)
async def score(request: Request) -> Response:
    """Return the utility of each text for this user, or for each of `users`, in the order of the request."""
    return await _score(request)


@router.post(
    "/v1/best-of-n",
    scope=Scope.RANK,
    summary="Choose the best candidate for a user",
    **describe_route("ranking", BestOfNResponse, BestOfNRequest),
)
async def best_of_n(request: Request) -> Response:
    """Choose the candidate with the highest utility, if it is good enough, and return how certain the choice is."""
    runtime, tenant = get_runtime(request), authorize(request)
    body = await read_model(request, runtime.settings, BestOfNRequest)
    user = resolve_ranking_user(request, body.user, None)
    task = build_best_of_n_task(body, runtime.settings)
    spend_candidates(request, len(task.texts))
    timings = Timings()
    choice = await get_served_model(request).scorer.best_of_n(
        tenant,
        user,
        task,
        timings,
        explain=bool(body.explain),
        personalization=_get_personalization(body, runtime.settings),
    )
    return json_response(build_best_of_n_answer(body, choice), timings)


def _get_personalization(
    body: RerankRequest | TeiRequest | ScoreRequest | BestOfNRequest, settings: Settings
) -> float:
    """Return the strength of personalization of a request, or that of the settings if it names none."""
    return settings.personalization if body.personalization is None else body.personalization


def _parse_rerank_or_tei(body: dict[str, Any]) -> RerankRequest | TeiRequest:
    is_tei = body.get("texts") is not None and body.get("documents") is None
    return validate(TeiRequest, body) if is_tei else validate(RerankRequest, body)


async def _read_rerank(request: Request) -> RerankRequest:
    authorize(request)  # before the body is read
    return await read_model(request, get_runtime(request).settings, RerankRequest)


async def _rerank(request: Request, body: RerankRequest, version: str) -> Response:
    runtime, tenant = get_runtime(request), authorize(request)
    user = resolve_ranking_user(request, body.user, body.model)
    task = build_rerank_task(body, runtime.settings)
    spend_candidates(request, len(task.texts))
    timings = Timings()
    explain = (body.top_n or len(task.texts)) if body.explain else 0
    model, read = get_served_model(request), task
    warnings: tuple[str, ...] = ()
    if body.max_tokens_per_doc is not None:
        read, warnings = await cut_texts(task, model.source.extractor.encoder, body.max_tokens_per_doc)
    ranked = await model.scorer.rank(
        tenant,
        user,
        read,
        timings,
        explain=explain,
        personalization=_get_personalization(body, runtime.settings),
    )
    return json_response(build_rerank_answer(body, task, ranked, version, warnings), timings)


async def _tei(request: Request, body: TeiRequest) -> Response:
    runtime, tenant = get_runtime(request), authorize(request)
    user = resolve_ranking_user(request, body.user, body.model)
    task = build_tei_task(body, runtime.settings)
    spend_candidates(request, len(task.texts))
    timings = Timings()
    explain = len(task.texts) if body.explain else 0
    ranked = await get_served_model(request).scorer.rank(
        tenant,
        user,
        task,
        timings,
        by_utility=bool(body.raw_scores),
        explain=explain,
        personalization=_get_personalization(body, runtime.settings),
    )
    return json_response(build_tei_answer(body, task, ranked), timings, {"X-Rank-Id": ranked.rank_id})


async def _score(request: Request) -> Response:
    runtime, tenant = get_runtime(request), authorize(request)
    body = await read_model(request, runtime.settings, ScoreRequest)
    user = resolve_ranking_user(request, body.user, body.model)
    task = build_score_task(body, runtime.settings)
    users = select_users(body, user, len(task.texts), runtime.settings)
    spend_candidates(request, len(task.texts) * len(users))
    timings = Timings()
    explain = len(task.texts) if body.explain else 0
    scored = await get_served_model(request).scorer.score(
        tenant,
        users,
        task,
        timings,
        explain=explain,
        personalization=_get_personalization(body, runtime.settings),
    )
    build = partial(build_score_answer, scored, int(runtime.store.clock()), named=body.users is not None)
    is_short = scored.mean.size <= INLINE_SCORES
    return json_response(build() if is_short else await asyncio.to_thread(build), timings)
