"""Routes for operators, and for clients that ask which models are served."""

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from penchant.service.access.keyring import Scope
from penchant.service.api.answers import ops as answers
from penchant.service.api.context import (
    authorize,
    get_runtime,
    get_served_model,
    json_response,
    list_model_names,
)
from penchant.service.api.openapi import describe_route
from penchant.service.api.routing import LeanRouter
from penchant.service.errors import ApiError, Code
from penchant.service.runtime import Runtime
from penchant.service.telemetry.metrics import Telemetry

router = LeanRouter(tags=["operations"])


@router.get(
    "/healthz", scope=None, summary="Is the process alive?", **describe_route("health", answers.Health)
)
async def healthz(request: Request) -> Response:
    """Return 200 unless a restart is the only remedy: a thread has ended, or a write hangs without end."""
    runtime = request.app.state.runtime
    faults = {} if runtime is None else runtime.find_fatal_faults()
    if faults:
        checks = {part: _check(fault, "") for part, fault in faults.items()}
        raise ApiError(Code.NOT_READY, "The server must be restarted.", extra={"checks": checks})
    return json_response({"status": "ok"})


@router.get("/readyz", scope=None, summary="Can it serve?", **describe_route("health", answers.Readiness))
async def readyz(request: Request) -> Response:
    """Return 200 if encoder and store work, and 503 otherwise. Both list every check. This never waits for the store."""
    runtime = get_runtime(request)
    checks = await _checks(runtime)
    if request.app.state.draining:
        checks["server"] = _check("about to stop: it answers, but new requests belong elsewhere", "")
    if any(check["status"] != "ok" for check in checks.values()):
        raise ApiError(
            Code.NOT_READY, "A check failed.", headers={"Retry-After": "1"}, extra={"checks": checks}
        )
    return json_response({"status": "ready", "checks": checks})


@router.get("/health", scope=None, summary="Same as /readyz", **describe_route("health", answers.Readiness))
async def health(request: Request) -> Response:
    """Same as `/readyz`."""
    return await readyz(request)


@router.get(
    "/metrics", scope=None, summary="Prometheus metrics", response_class=Response, include_in_schema=False
)
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus' text format. They name no tenants and no users."""
    telemetry: Telemetry = request.app.state.telemetry
    return Response(telemetry.render(), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/v1/models",
    scope=Scope.RANK,
    summary="Which models are served?",
    **describe_route("models", answers.ModelList),
)
async def models(request: Request) -> Response:
    """List every accepted model name. All of them stand for the loaded bundle."""
    runtime, tenant = get_runtime(request), authorize(request)
    bundle, limits = get_served_model(request).bundle, _limits(request, tenant)
    data = [
        {
            "id": name,
            "object": "model",
            "created": int(runtime.started_at),
            "owned_by": "penchant",
            "bundle": bundle.manifest.name,
            "bundle_version": bundle.version,
            "limits": limits,
        }
        for name in list_model_names(request)
    ]
    return json_response({"object": "list", "data": data})


def _limits(request: Request, tenant: str) -> dict[str, Any]:
    runtime = get_runtime(request)
    settings, own = runtime.settings, runtime.access.tenancy.get(tenant)
    of_requests = (
        "max_body_bytes",
        "max_body_values",
        "max_body_depth",
        "max_candidates",
        "max_scores",
        "max_text_chars",
        "max_events",
        "max_event_texts",
        "max_feedback_texts",
        "max_edit_chars",
        "max_metadata_bytes",
        "max_metadata_depth",
        "max_page_items",
        "max_page_bytes",
        "body_timeout_seconds",
        "request_timeout_seconds",
        "key_requests_per_minute",
    )
    return {
        **{name: getattr(settings, name) for name in of_requests},
        "max_tokens_per_text": get_served_model(request).source.extractor.max_tokens,
        "tenant_requests_per_minute": own.requests_per_minute,
        "candidates_per_day": own.candidates_per_day,
        "events_per_day": own.events_per_day,
        "users": own.users,
        "ranking_bytes": own.ranking_bytes,
    }


async def _checks(runtime: Runtime) -> dict[str, dict[str, Any]]:
    store = await runtime.read_probe.find_fault() or runtime.writer.find_fault()
    checks = {
        "encoder": _check(runtime.models.current.source.batcher.find_fault(), "warm"),
        "store": _check(store, "writing works"),
        "bundle": _check(None, runtime.models.current.bundle.version),
    }
    if runtime.relevance is not None:
        checks["relevance"] = _check(runtime.relevance.batcher.find_fault(), "warm")
    return checks


def _check(fault: str | None, detail: str) -> dict[str, Any]:
    return {"status": "ok" if fault is None else "failed", "detail": fault or detail}
