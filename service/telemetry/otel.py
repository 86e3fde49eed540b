"""Tracing with OpenTelemetry's SDK. This module is only imported if tracing is on, because the SDK is an extra."""

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

_TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})  # without baggage, which may hold anything
_QUIET: Final = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
_SERVER_ERROR: Final = 500


class OpenTelemetry(Tracing):
    """Tracing that records spans.

    Args:
        provider: Samples, batches and exports the spans.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("penchant", version("penchant"))

    @contextmanager
    def span(self, name: str, **attributes: Attribute) -> Iterator[None]:
        """Return a span for a step of a request. Its attributes are named `penchant.` + name."""
        span_attributes = {f"penchant.{key}": value for key, value in attributes.items()}
        # The SDK would record the exception, whose text may quote a request.
        with self._tracer.start_as_current_span(
            name, attributes=span_attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                _mark_failed(span, type(error).__name__)
                raise

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application so that each request has a span, in the trace that its headers name."""
        return _TracingMiddleware(app, self._tracer)

    def stop(self) -> None:
        """Send the remaining spans. This can take seconds."""
        self._provider.shutdown()


def create_otlp_tracing() -> OpenTelemetry:
    """Return tracing that sends spans by OTLP over HTTP, as configured by the environment variables OTEL_*."""
    resource_attributes = {SERVICE_VERSION: version("penchant")}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        resource_attributes[SERVICE_NAME] = "penchant"
    provider = TracerProvider(resource=Resource.create(resource_attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetry(provider)


class _TracingMiddleware:
    """The outermost ASGI middleware. It records a span for each request, named by route because paths hold user ids."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        trace_headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in _TRACE_HEADERS}
        with self._tracer.start_as_current_span(
            scope["method"],
            context=self._propagator.extract(trace_headers),
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if "traceparent" not in trace_headers:
                self._add_trace_header(scope)
            try:
                await self._app(scope, receive, send_and_record)
            finally:
                _add_attributes(span, scope, status)

    def _add_trace_header(self, scope: Scope) -> None:
        """Add the trace that starts here to the request's headers, so that its log line names it."""
        injected: dict[str, str] = {}
        self._propagator.inject(injected)
        scope["headers"] = [*scope["headers"], *((k.encode(), v.encode()) for k, v in injected.items())]


def _add_attributes(span: Span, scope: Scope, status: int) -> None:
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
