"""Spans through OpenTelemetry's SDK. Imported where traces are wanted, and nowhere else: it is an extra."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penchant.service.telemetry.metrics import Attribute, Tracing

_CARRIED: Final = frozenset({b"traceparent", b"tracestate"})  # baggage may hold anything: it stays outside
_QUIET: Final = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
_SERVER_ERROR: Final = 500


class OpenTelemetry(Tracing):
    """Tracing that records.

    Args:
        provider: Samples, batches and exports the spans.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("penchant", version("penchant"))

    @contextmanager
    def span(self, name: str, **attributes: Attribute) -> Iterator[None]:
        """Times a step within a request; its attributes are `penchant.` + name."""
        named = {f"penchant.{key}": value for key, value in attributes.items()}
        # The SDK would write the exception down, which may quote a request.
        with self._tracer.start_as_current_span(
            name, attributes=named, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                _mark_failed(span, type(error).__name__)
                raise

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wraps an application: its requests are timed, within the trace that their headers name."""
        return _Traced(app, self._tracer)

    def stop(self) -> None:
        """Sends what waits to be sent; may take seconds."""
        self._provider.shutdown()


def exporting() -> OpenTelemetry:
    """Traces that are sent by OTLP over HTTP, as OTEL_* says."""
    named = {SERVICE_VERSION: version("penchant")}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named[SERVICE_NAME] = "penchant"
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetry(provider)


class _Traced:
    """ASGI middleware around all others: a span a request, named by its route, for a path may hold a user's id."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        carried = {k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in _CARRIED}
        with self._tracer.start_as_current_span(
            scope["method"],
            context=self._propagator.extract(carried),
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if "traceparent" not in carried:
                self._tell(scope)
            try:
                await self._app(scope, receive, answer)
            finally:
                _describe(span, scope, status)

    def _tell(self, scope: Scope) -> None:
        """Lets the request's log line name the trace that began here."""
        made: dict[str, str] = {}
        self._propagator.inject(made)
        scope["headers"] = [*scope["headers"], *((k.encode(), v.encode()) for k, v in made.items())]


def _describe(span: Span, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path", None)
    span.set_attribute("http.request.method", scope["method"])
    span.set_attribute("penchant.request_id", scope["state"]["request_id"])
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    if status:
        span.set_attribute("http.response.status_code", status)
    if status == 0 or status >= _SERVER_ERROR:
        _mark_failed(span, str(status) if status else "no_answer")


def _mark_failed(span: Span, reason: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", reason)
