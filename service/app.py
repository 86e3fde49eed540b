"""The application: wiring only."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.taste.fixed_points import convergence_failures
from penchant.service.api import openapi
from penchant.service.api.middleware import Edge
from penchant.service.api.routes import feedback, ops, rank, users
from penchant.service.bundles.loading import StartError, load_extractor
from penchant.service.draining import Draining
from penchant.service.errors import ApiError, from_http_status, problem_response, storage_unavailable
from penchant.service.runtime import start
from penchant.service.settings import Settings
from penchant.service.store.database import StoreError
from penchant.service.telemetry.metrics import Telemetry, Tracing, log_failure
from penchant.service.telemetry.setup import from_environment

_MODULES: Final = (rank, feedback, users, ops)


def create_app(
    settings: Settings,
    *,
    extractor: FeatureExtractor | None = None,
    bundle: Bundle | None = None,
    shipped: Bundle | None = None,
    extractors: Callable[[Bundle], FeatureExtractor] | None = None,
    clock: Callable[[], float] = time.time,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The service.

    Args:
        settings: Everything configurable.
        extractor: In place of the encoder that the bundle names.
        bundle: Rank with this one alone, whatever settings and store name.
        shipped: In place of the shipped one: what is ranked with where neither settings nor store name one.
        extractors: In place of the encoders that bundles name.
        clock: Unix seconds.
        tracing: In place of what the environment asks for.

    Raises:
        TracingError: The environment asks for traces, and the extra is not installed.
    """
    telemetry = Telemetry(tracing or from_environment(settings.tracing))
    telemetry.follow(
        "numerical_rescues",
        "Iterations of the user model that did not converge, so that their best approximation was used.",
        "computation",
        convergence_failures.counts,
    )

    def extractor_of(needed: Bundle) -> FeatureExtractor:
        if extractors is not None:
            return extractors(needed)
        if extractor is not None and (
            needed is bundle or extractor.identity == needed.manifest.encoder.features
        ):
            return extractor
        return load_extractor(settings, needed)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            served = await start(
                settings, telemetry, extractor_of, pinned=bundle, shipped=shipped, clock=clock
            )
        except (StartError, StoreError) as error:
            app.state.start_failure = error
            raise
        app.state.runtime = served
        try:
            yield
        finally:
            app.state.runtime = None
            await served.stop()
            await asyncio.to_thread(telemetry.tracing.stop)

    app = FastAPI(
        title="penchant",
        version=version("penchant"),
        description="Learns what each user likes and ranks text for them.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.telemetry = telemetry
    app.state.draining = Draining()
    app.state.runtime = None
    app.state.start_failure = None
    app.add_middleware(
        Edge,
        telemetry=telemetry,
        draining=app.state.draining,
        seconds=settings.request_timeout_seconds,
        per_user_paths=frozenset(route.path for route in rank.router.routes if route.per_user),
    )
    app.add_middleware(telemetry.tracing.middleware)  # the outermost
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(SQLAlchemyError, _store_error)
    app.add_exception_handler(HTTPException, _http_error)
    for module in _MODULES:
        app.router.routes.extend(module.router.routes)
    served_document: list[bytes] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_json(_request: Request) -> Response:
        if not served_document:
            served_document.append(openapi.serialize(openapi.document(app)))
        return Response(served_document[0], media_type="application/json")

    return app


async def _api_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return problem_response(error, **_of(request))


async def _store_error(request: Request, error: Exception) -> Response:
    log_failure("read_failed", error)
    return problem_response(storage_unavailable(), **_of(request))


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if "Allow" in headers:  # the framework names the methods of the first route only
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return problem_response(from_http_status(error.status_code, headers), **_of(request))


def _methods(request: Request) -> set[str]:
    """Every method that the path of a request knows."""
    routes = [route for module in _MODULES for route in module.router.routes]
    return {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


def _of(request: Request) -> dict[str, Any]:
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    return {"instance": raw.decode("latin-1"), "request_id": request.scope["state"]["request_id"]}
