"""Health, metrics, models, ids of requests, logs, failures of the server itself."""

import re

import pytest
import structlog

from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.fixed_points import convergence_failures
from penchant.service.api.answers.base import Problem
from penchant.service.api.answers.ops import Health, ModelList, Readiness
from penchant.service.errors import STATUS, Code
from penchant.service.telemetry.metrics import Timings, configure_logging

RERANK = {"query": "a query of my own", "documents": ["a document of my own", "b"]}


def test_alive(client):
    Health.model_validate(client.get("/healthz").json())


@pytest.mark.parametrize("path", ["/readyz", "/health"])
def test_ready(client, path):
    body = Readiness.model_validate(client.get(path).json())
    assert {name: check.status for name, check in body.checks.items()} == {
        "encoder": "ok",
        "store": "ok",
        "bundle": "ok",
    }


def test_not_ready_when_a_thread_has_ended(client):
    served = client.app.state.runtime
    client.portal.call(served.models.current.source.batcher.stop)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.json()["checks"]["encoder"]["status"] == "failed"
    assert answer.json()["checks"]["store"]["status"] == "ok"
    lost = client.get("/healthz")
    assert (lost.status_code, lost.json()["checks"]["encoder"]["status"]) == (503, "failed")
    client.app.state.runtime = None
    assert client.get("/healthz").status_code == 200
    assert client.post("/v1/rerank", json=RERANK).json()["code"] == "not_ready"
    client.app.state.runtime = served


def test_models_and_limits(client, settings):
    body = ModelList.model_validate(client.get("/v1/models").json())
    assert body.data[0].id == "penchant"
    assert {"rerank-v3.5", "jina-reranker-v2-base-multilingual", "tiny"} <= {model.id for model in body.data}
    limits = body.data[0].limits
    assert (limits.max_candidates, limits.max_tokens_per_text) == (settings.max_candidates, 256)


def test_the_limit_of_a_text_counts_all_windows(serve):
    client = serve(using=HashingEncoder(max_tokens=100, max_windows=8))
    limits = ModelList.model_validate(client.get("/v1/models").json()).data[0].limits
    assert limits.max_tokens_per_text == 800


def sample(client, name):
    match = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def test_iterations_that_did_not_converge_are_counted(client):
    series = 'penchant_numerical_rescues_total{computation="site of a choice or ranking"}'
    before = sample(client, series)
    convergence_failures.add("site of a choice or ranking", residual=0.1, tolerance=1e-6, steps=60)
    assert sample(client, series) == before + 1


def test_metrics(client):
    client.post("/users/very-secret-user/v1/rerank", json=RERANK)
    client.post("/v1/rerank", json=RERANK)
    client.post("/v1/feedback", json={"type": "vote", "user": "very-secret-user", "text": "b", "value": 1})
    client.get("/v1/users/very-secret-user")
    client.get("/made/up/path")
    text = client.get("/metrics").text
    assert "very-secret-user" not in text
    assert "/made/up/path" not in text
    assert sample(client, 'penchant_http_requests_total{method="POST",route="/v1/rerank",status="200"}') == 2
    assert sample(client, 'penchant_http_requests_total{method="any",route="unmatched",status="404"}') == 1
    assert (
        sample(client, 'penchant_http_requests_total{method="GET",route="/v1/users/{user}",status="200"}')
        == 1
    )
    assert sample(client, 'penchant_feedback_events_total{outcome="accepted",type="vote"}') == 1
    assert sample(client, "penchant_feature_cache_hits_total") == 3
    assert sample(client, "penchant_feature_cache_misses_total") == 2
    assert sample(client, "penchant_encoder_texts_total") == 2
    assert sample(client, "penchant_ranked_texts_total") == 4
    assert sample(client, "penchant_feature_cache_bytes") > 0
    ours = [line for line in text.splitlines() if not line.startswith(("#", "python_", "process_"))]
    assert all(line.startswith("penchant_") for line in ours)


def test_a_request_id_is_echoed_or_made(client):
    assert client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = client.get("/healthz").headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    for bad in ("x" * 129, "with space", ""):
        assert client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad
    failed = client.get("/nothing", headers={"X-Request-Id": "mine-2"})
    assert failed.json()["request_id"] == failed.headers["x-request-id"] == "mine-2"
    assert failed.json()["instance"] == "/nothing"


def test_logs_hold_neither_texts_nor_users(logs, client):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-Id": "r1"}
    client.post("/v1/rerank", json=RERANK | {"user": "secret user"}, headers=headers)
    client.get("/v1/users/secret%20user")
    client.post("/v1/rerank", json=RERANK | {"documents": ["poison of my own"], "user": "secret user"})
    client.post(
        "/v1/feedback", json={"type": "vote", "user": "secret user", "text": "b of my own", "value": 1}
    )
    assert not re.search("secret user|of my own", repr(logs))
    requests = [line for line in logs if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 404, 500, 200]
    assert (requests[0]["request_id"], requests[0]["trace_id"]) == ("r1", trace)
    assert requests[0]["route"] == "/v1/rerank"
    assert re.fullmatch("[0-9a-f]{16}", requests[0]["user"])
    assert requests[0]["user"] == requests[1]["user"]


def test_a_user_has_one_hash_in_an_installation(serve):
    def hashed():
        client = serve()
        return [client.app.state.telemetry.hash_user(*who) for who in (("a", "u"), ("b", "u"), ("a", "v"))]

    first = hashed()
    assert len(set(first)) == 3
    assert hashed() == first


def test_a_failure_is_not_explained_to_the_caller(logs, client):
    answer = client.post("/v1/rerank", json={"query": "q", "documents": ["poison"]})
    Problem.model_validate(answer.json())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert any("secret reason" in line.get("message", "") for line in logs)
    assert client.post("/v1/rerank", json={"query": "q", "documents": ["fine"]}).status_code == 200


def test_an_unforeseen_failure_is_a_problem_too(client, monkeypatch):
    async def fail(*_arguments, **_named):
        raise RuntimeError("secret reason")

    monkeypatch.setattr(client.app.state.runtime.models.current.scorer, "rank", fail)
    answer = client.post("/v1/rerank", json=RERANK, headers={"X-Request-Id": "r1"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "r1"
    assert "secret" not in answer.text


def test_numbers_that_are_not_finite_never_leave(client, monkeypatch):
    reward = client.app.state.runtime.models.current.bundle.reward
    monkeypatch.setattr(type(reward), "reference", reward.reference, raising=False)
    broken = reward.text_prior.weights.copy()
    broken[0, 0] = float("nan")
    object.__setattr__(reward.text_prior, "weights", broken)
    for path, body in (
        ("/v1/rerank", RERANK),
        ("/rerank", {"query": "q", "texts": ["a", "b"]}),
        ("/score", {"text_1": "q", "text_2": ["a", "b"]}),
        ("/v1/best-of-n", {"candidates": ["a", "b", "c"]}),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error"), path


def test_every_code_has_a_status_and_a_title():
    assert set(STATUS) == set(Code)
    assert all(400 <= status < 600 and title for status, title in STATUS.values())
    conflicts = [code for code, (status, _) in STATUS.items() if status == 409]
    assert conflicts == [Code.IDEMPOTENCY_IN_FLIGHT, Code.USER_BUSY]


def test_server_timing_is_in_milliseconds():
    timings = Timings(queue=0.001, encode=0.25, posterior=0, rank=0.0000005)
    assert timings.header() == "queue;dur=1.000, encode;dur=250.000, posterior;dur=0.000, rank;dur=0.001"


def test_logs_are_json(capfdbinary):
    import json
    import logging

    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging("INFO")
        structlog.get_logger("penchant").info("hello", n=1)
        structlog.get_logger("penchant").debug("not shown")
        logging.getLogger("uvicorn.error").warning("careful")
    finally:
        structlog.reset_defaults()
        root.handlers[:], root.level = before[0], before[1]
    lines = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("hello", "info"), ("careful", "warning")]
    assert lines[0]["n"] == 1
