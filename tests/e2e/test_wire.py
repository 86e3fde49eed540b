"""What only a real socket shows: raw paths, slow and broken bodies, keep-alive."""

import contextlib
import json
import socket
from http.client import HTTPResponse
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.slow

IDS = ["a/b", "50%", "a%2Fb", "ünïcode", "日本 語", "a?b#c", "a:b@c", "a\\b", "'quoted' \"id\""]
RERANK = {"query": "q", "documents": ["a", "b"]}


def exchange(server, *parts):
    """Sends raw bytes; returns the status and the JSON that came back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        with HTTPResponse(connection) as response:
            response.begin()
            return response.status, json.loads(response.read())


def head(length, path="/v1/rerank", *more):
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def test_odd_user_ids_over_the_wire(server):
    with server.client() as client:
        for user in IDS:
            path = quote(user, safe="")
            vote = {"type": "vote", "user": user, "text": "t", "value": 1}
            assert client.post("/v1/feedback", json=vote).json()["users"][0]["user"] == user
            ranked = client.post(f"/users/{path}/v1/rerank", json=RERANK).json()
            assert ranked["meta"]["personalization"]["user"] == user
            assert ranked["meta"]["personalization"]["feedback_events"] == 1
            by_header = client.post("/v1/rerank", json=RERANK, headers={"X-User-Id": path}).json()
            assert by_header["results"] == ranked["results"]
            assert client.get(f"/v1/users/{path}").json()["user"] == user
            assert client.delete(f"/v1/users/{path}").status_code == 204
            assert client.get(f"/v1/users/{path}").status_code == 404


def test_bad_requests_over_the_wire(server):
    assert exchange(server, head(3), b'{"\xff')[1]["code"] == "invalid_encoding"
    assert exchange(server, head(9 * 2**20))[0] == 413
    assert exchange(server, head(2, "/v1/rerank", "X-User-Id: \xff\xfe"), b"{}")[0] in (400, 422)
    assert exchange(server, head(2, "/users/%FF/v1/rerank"), b"{}")[0] in (400, 422)
    assert exchange(server, b"GET /v1/users/a%2 HTTP/1.1\r\nHost: x\r\n\r\n")[1]["code"] == "user_not_found"
    with server.client() as client:
        assert client.get("/readyz").status_code == 200


def test_a_slow_body_is_not_waited_for(launch, ready):
    server = ready(launch(PENCHANT_BODY_TIMEOUT_SECONDS="0.2"))
    status, problem = exchange(server, head(100), b'{"query": ')
    assert (status, problem["code"]) == (408, "request_timeout")


def test_a_length_of_many_zeros_is_a_number(server):
    body = json.dumps(RERANK).encode()
    assert exchange(server, head("0" * 5000 + str(len(body))), body)[0] == 200


def test_limits_of_connections_are_those_of_the_settings(launch, ready):
    server = ready(
        launch(
            PENCHANT_MAX_HEADER_BYTES="2000",
            PENCHANT_HEADER_TIMEOUT_SECONDS="0.2",
            PENCHANT_FIRST_BYTE_TIMEOUT_SECONDS="0.2",
            PENCHANT_MAX_CONNECTIONS_PER_PEER="8",
        )
    )
    assert exchange(server, b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 3000)[1]["code"] == "headers_too_large"
    assert exchange(server, b"GET /healthz HTTP/1.1\r\n")[1]["code"] == "request_timeout"
    assert exchange(server, b"nonsense\r\n\r\n")[1]["code"] == "malformed_request"
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            for _ in range(20)
        ]
        with server.client() as client:
            assert client.post("/v1/rerank", json=RERANK).status_code == 200
            assert [connection.recv(1) for connection in silent] == [b""] * 20
            metrics = client.get("/metrics").text
    reasons = [
        "headers_too_large",
        "headers_too_slow",
        "not_http",
        "no_first_byte",
        "too_many_connections_of_peer",
    ]
    for reason in reasons:
        assert f'penchant_connections_refused_total{{reason="{reason}"}}' in metrics
    server.end()
    logged = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {line["reason"] for line in logged if line["event"] == "connection_refused"} == set(reasons)


def test_a_client_that_leaves_harms_nobody(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head(100) + b'{"query": ')
    with server.client() as client:
        assert client.post("/v1/rerank", json=RERANK).status_code == 200
    server.end()
    assert "request_failed" not in server.log.read_text()


def test_the_largest_request(server):
    n = 1000
    with server.client() as client:
        answer = client.post(
            "/v1/rerank", json={"query": "q", "documents": [f"document {i}" for i in range(n)]}
        )
        assert len(answer.json()["results"]) == n
        answer = client.post("/v1/rerank", json={"query": "q", "documents": ["x " * 499_000]})
        assert answer.json()["meta"]["warnings"] == ["1 of 1 documents truncated to 256 tokens: 0"]
        assert client.post("/v1/rerank", json={"query": "q", "documents": ["x"] * 10_000}).status_code == 422
