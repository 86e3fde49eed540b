"""Spans: one a request in the caller's trace, its steps below it; no text, no user; nothing at all unless asked for."""

import json

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.testing import tiny_bundle
from penchant.service.app import create_app
from penchant.service.telemetry.metrics import Tracing
from penchant.service.telemetry.otel import OpenTelemetry
from penchant.service.telemetry.setup import TracingError, create_tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "baggage": "secret=baggage"}
RERANK = {"query": "secret query", "documents": ["secret one", "secret two"], "user": "secret-user"}
VOTE = {"type": "vote", "text": "secret text", "user": "secret-user", "value": 1}


@pytest.fixture
def traced(settings, encoder, clock):
    """A server and the spans that it made."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    extractor = FeatureExtractor(encoder)
    app = create_app(
        settings,
        extractor=extractor,
        bundle=tiny_bundle(extractor),
        clock=clock,
        tracing=OpenTelemetry(provider),
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, exporter


def by_name(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_ranking_continues_the_caller_s_trace(traced):
    client, exporter = traced
    assert client.post("/users/secret-user/v1/rerank", json=RERANK, headers=PARENT).status_code == 200
    spans = by_name(exporter)
    assert set(spans) == {"POST /v1/rerank", "rank", "encode"}
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    request = spans["POST /v1/rerank"]
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert request.kind is SpanKind.SERVER
    assert request.attributes["http.response.status_code"] == 200
    assert spans["rank"].parent.span_id == request.context.span_id
    assert spans["encode"].parent.span_id == spans["rank"].context.span_id
    assert spans["rank"].attributes == spans["encode"].attributes == {"penchant.texts": 2}


def test_feedback_shows_its_commit_and_logs_the_trace_that_begins_here(logs, traced):
    client, exporter = traced
    assert client.post("/v1/feedback", json=VOTE).status_code == 200
    spans = by_name(exporter)
    assert set(spans) == {"POST /v1/feedback", "encode", "commit"}
    assert spans["commit"].attributes == {"penchant.events": 1}
    [line] = [entry for entry in logs if entry["event"] == "request"]
    assert line["trace_id"] == f"{spans['POST /v1/feedback'].context.trace_id:032x}"


def test_no_span_tells_texts_or_users_even_of_failures(traced, encoder):
    client, exporter = traced
    client.post("/v1/rerank", json=RERANK, headers=PARENT)
    client.post("/v1/feedback", json=VOTE)
    assert client.get("/v1/users/secret-user").status_code == 200
    assert client.post("/v1/rerank", json=RERANK | {"documents": ["secret poison"]}).status_code == 500
    assert client.get("/v1/secret/path").status_code == 404
    spans = exporter.get_finished_spans()
    assert len(spans) == 3 + 3 + 1 + 3 + 1
    assert "secret" not in json.dumps([json.loads(span.to_json()) for span in spans])
    failed = [span for span in spans if span.status.status_code is StatusCode.ERROR]
    assert {span.name for span in failed} == {"POST /v1/rerank", "rank", "encode"}
    assert {span.attributes["error.type"] for span in failed} == {"500", "ApiError"}
    assert all(not span.events for span in spans)


def test_probes_are_not_traced(traced):
    client, exporter = traced
    assert client.get("/readyz").status_code == client.get("/metrics").status_code == 200
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("endpoint", "wanted", "recording"),
    [
        (None, None, False),
        ("http://127.0.0.1:9", None, True),
        ("http://127.0.0.1:9", False, False),
        (None, True, True),
    ],
)
def test_it_is_off_unless_told_where_to_send(monkeypatch, endpoint, wanted, recording):
    if endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    tracing = create_tracing(wanted)
    tracing.stop()
    assert isinstance(tracing, OpenTelemetry) is recording


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, "penchant.service.telemetry.otel")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingError, match=r"pip install 'penchant\[otel\]'"):
        create_tracing(True)


def test_no_tracing_costs_next_to_nothing():
    tracing = Tracing()
    assert tracing.span("rank", texts=1) is tracing.span("encode")
    app = object()
    assert tracing.middleware(app) is app
