"""Told to stop, a server answers what it accepted and lets nobody down who listens to /readyz."""

import json
import signal
import socket
import threading
from http.client import HTTPResponse

import httpx
import pytest

pytestmark = pytest.mark.slow

RERANK = {"query": "q", "documents": ["a", "b", "c"]}


def vote(worker, n):
    return {"type": "vote", "user": f"u{n % 3}", "text": f"t{n % 5}", "value": 1, "event_id": f"{worker}-{n}"}


def logged(client):
    found = []
    for n in range(3):
        cursor = None
        while True:
            page = client.get(
                f"/v1/users/u{n}/feedback", params={"limit": 100} | ({"cursor": cursor} if cursor else {})
            )
            if page.status_code == 404:
                break
            found += [event["event_id"] for event in page.json()["data"]]
            if (cursor := page.json()["next_cursor"]) is None:
                break
    return found


def test_while_it_drains_it_is_not_ready_but_serves(launch, ready):
    server = ready(launch(PENCHANT_DRAIN_SECONDS="60"))
    with server.client() as client:
        assert "connection" not in client.post("/v1/rerank", json=RERANK).headers
        server.process.send_signal(signal.SIGTERM)
        while (answer := client.get("/readyz")).status_code == 200:
            pass
        assert answer.status_code == 503
        assert answer.json()["checks"]["server"]["status"] == "failed"
        assert answer.json()["checks"]["store"]["status"] == "ok"
        ranked = client.post("/v1/rerank", json=RERANK)
        assert ranked.status_code == 200
        assert ranked.headers["connection"] == "close"
        assert client.post("/v1/feedback", json=vote(0, 0)).json()["accepted"] == 1
        assert client.get("/healthz").status_code == 200
    server.process.send_signal(signal.SIGTERM)  # no more patience
    assert server.process.wait(timeout=20) == -signal.SIGTERM
    assert json.loads(server.log.read_text().splitlines()[-1])["event"] == "stopped"


def test_under_load_nothing_accepted_is_lost_and_nobody_sees_an_error_before_the_end(launch, ready):
    """Clients leave when /readyz fails, as those of a load balancer do: none of their requests fails."""
    server = ready(launch(PENCHANT_DRAIN_SECONDS="2"))
    acknowledged, failures = [], []
    enough, leave = threading.Event(), threading.Event()

    def send(worker):
        with server.client() as client:
            for n in range(100_000):
                if leave.is_set():
                    return
                try:
                    answer = client.post("/v1/feedback", json=vote(worker, n))
                    acknowledged.append(vote(worker, n)["event_id"])
                    if answer.status_code != 200 or answer.json()["accepted"] != 1:
                        failures.append(answer.text)
                except httpx.TransportError as error:
                    failures.append(repr(error))
                if len(acknowledged) > 40:
                    enough.set()

    workers = [threading.Thread(target=send, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    assert enough.wait(timeout=60)
    server.process.send_signal(signal.SIGTERM)
    with server.client() as client:
        while client.get("/readyz").status_code == 200:
            pass
    leave.set()
    for worker in workers:
        worker.join()
    assert server.process.wait(timeout=30) == -signal.SIGTERM
    assert failures == []
    server = ready(launch())
    with server.client() as client:
        found = logged(client)
    assert sorted(found) == sorted(acknowledged)


def listens(server):
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=30).close()
    except ConnectionError:
        return False
    return True


def test_a_request_that_was_begun_is_answered(launch, ready):
    """Its head came before the signal, the rest of its body long after."""
    server = ready(launch())
    body = json.dumps(vote(0, 0)).encode()
    told = [
        "POST /v1/feedback HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    head = "\r\n".join([*told, "", ""])
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + body[:10])
        with server.client() as client:
            assert client.get("/readyz").status_code == 200  # so that the head has been read, too
            server.process.send_signal(signal.SIGTERM)
            while listens(server):
                pass
        connection.sendall(body[10:])
        with HTTPResponse(connection) as response:
            response.begin()
            assert response.status == 200
            assert json.loads(response.read())["accepted"] == 1
    assert server.process.wait(timeout=30) == -signal.SIGTERM
    server = ready(launch())
    with server.client() as client:
        assert logged(client) == ["0-0"]
