"""Assembly of the FastAPI application from routes, middleware, error handlers and the runtime."""

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
from penchant.service.api.middleware import RequestMiddleware
from penchant.service.api.routes import feedback, ops, rank, users
from penchant.service.bundles.loading import load_extractor
from penchant.service.claims import StartError
from penchant.service.draining import Draining
from penchant.service.errors import ApiError, build_problem_response, http_status_error, storage_error
from penchant.service.runtime import start
from penchant.service.settings import Settings
from penchant.service.store.database import Store, StoreError, find_reason
from penchant.service.telemetry.metrics import Telemetry, Tracing, log_failure
from penchant.service.telemetry.setup import create_tracing
from penchant.service.users.states import unreadable_states

_ROUTE_MODULES: Final = (rank, feedback, users, ops)


def create_app(
    settings: Settings,
    *,
    extractor: FeatureExtractor | None = None,
    bundle: Bundle | None = None,
    shipped: Bundle | None = None,
    extractor_loader: Callable[[Bundle], FeatureExtractor] | None = None,
    clock: Callable[[], float] = time.time,
    tracing: Tracing | None = None,
    store: Store | None = None,
) -> FastAPI:
    """Return the application. Its lifespan starts and stops the runtime.

    Args:
        settings: Settings of the server.
        extractor: Feature extractor to use for `bundle`, and for bundles with the same features. By default the encoder
            that a bundle names is loaded.
        bundle: Bundle to rank with, regardless of settings and store.
        shipped: Replacement for the shipped bundle, which is used if neither settings nor store name a bundle.
        extractor_loader: Loads the feature extractor of every bundle, instead of the default and of `extractor`.
        clock: Returns the time in Unix seconds.
        tracing: Tracing to use instead of the one that the environment configures.
        store: The store, if it is open already. The application closes it.

    Raises:
        TracingError: If the environment asks for traces and the extra `otel` is not installed.
    """
    telemetry = Telemetry(tracing or create_tracing(settings.tracing))
    telemetry.expose_counts(
        "numerical_rescues",
        "Computations of the user model that did not converge; their best approximation was used.",
        "computation",
        convergence_failures.counts,
    )
    telemetry.expose_counts(
        "unreadable_states",
        "Saved states that could not be read. They were learned again from the log.",
        "table",
        unreadable_states.copy,
    )

    def get_extractor(required: Bundle) -> FeatureExtractor:
        if extractor_loader is not None:
            return extractor_loader(required)
        if extractor is not None and (
            required is bundle or extractor.identity == required.manifest.encoder.features
        ):
            return extractor
        return load_extractor(settings, required)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            runtime = await start(
                settings, telemetry, get_extractor, pinned=bundle, shipped=shipped, clock=clock, store=store
            )
        except (StartError, StoreError) as error:
            app.state.start_failure = error
            raise
        except (SQLAlchemyError, OSError) as error:
            app.state.start_failure = find_reason(error)
            raise
        app.state.runtime = runtime
        try:
            yield
        finally:
            app.state.runtime = None
            left = app.state.draining.seconds_left
            await runtime.stop(settings.shutdown_timeout_seconds if left is None else left)
            await asyncio.to_thread(telemetry.tracing.stop)

    app = FastAPI(
        title="penchant",
        version=version("penchant"),
        description="Learns what each user likes, and ranks texts for them.",
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
        RequestMiddleware,
        telemetry=telemetry,
        draining=app.state.draining,
        seconds=settings.request_timeout_seconds,
        per_user_paths=frozenset(route.path for route in rank.router.routes if route.per_user),
    )
    app.add_middleware(telemetry.tracing.middleware)  # added last, so it is the outermost
    app.add_exception_handler(ApiError, _handle_api_error)
    app.add_exception_handler(SQLAlchemyError, _handle_store_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    for module in _ROUTE_MODULES:
        app.router.routes.extend(module.router.routes)
    cached_document: list[bytes] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_json(_request: Request) -> Response:
        if not cached_document:
            # In a thread, because it takes a quarter of a second.
            cached_document.append(
                await asyncio.to_thread(
                    lambda: openapi.serialize_document(openapi.build_document(app, settings))
                )
            )
        return Response(cached_document[0], media_type="application/json")

    return app


async def _handle_api_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return build_problem_response(error, **_describe_request(request))


async def _handle_store_error(request: Request, error: Exception) -> Response:
    log_failure("read_failed", error)
    return build_problem_response(storage_error(), **_describe_request(request))


async def _handle_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if "Allow" in headers:  # the framework lists only the methods of the first matching route
        headers["Allow"] = ", ".join(sorted(_list_methods(request)))
    return build_problem_response(http_status_error(error.status_code, headers), **_describe_request(request))


def _list_methods(request: Request) -> set[str]:
    """Return the methods of all routes that match the path of a request."""
    routes = [route for module in _ROUTE_MODULES for route in module.router.routes]
    return {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


def _describe_request(request: Request) -> dict[str, Any]:
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    return {"instance": raw.decode("latin-1"), "request_id": request.scope["state"]["request_id"]}
