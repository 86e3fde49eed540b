"""Two server processes on one PostgreSQL database: killed, raced and cut off from it, they lose nothing."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytestmark = pytest.mark.slow

VOTE = {"type": "vote", "user": "u", "text": "a text to judge", "value": 1}
ASK = {"prompt": "p", "candidates": ["a text to judge", "another text", "and a third, longer than others"]}
WRITERS = 32
EVENTS = 8


def results(client, user="u"):
    return client.post("/v1/best-of-n", json=ASK | {"user": user}).json()["results"]


def events_of(client, user="u"):
    answer = client.get(f"/v1/users/{user}")
    return answer.json()["feedback_events"] if answer.status_code == 200 else 0


def logged_ids(client, user="u"):
    found, cursor = [], None
    while True:
        asked = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"/v1/users/{user}/feedback", params=asked).json()
        found += [entry["event_id"] for entry in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


@pytest.fixture
def replicas(postgres, launch, ready):
    url = postgres.new()
    servers = [launch(PENCHANT_STORE_URL=url, PENCHANT_LOG_LEVEL="WARNING") for _ in range(2)]
    yield [ready(server) for server in servers]
    for server in servers:
        if server.process.poll() is None:
            server.end()
    postgres.drop(url)


def test_many_writers_on_one_user(replicas):
    """The count is exact, and whoever wrote finds it at once on the other replica."""
    stale = []

    def write(worker):
        told = []
        with replicas[worker % 2].client() as mine, replicas[1 - worker % 2].client() as other:
            for n in range(EVENTS):
                event = VOTE | {"event_id": f"{worker}-{n}", "text": f"text {(worker + n) % 7}"}
                answer = mine.post("/v1/feedback", json=event)
                assert answer.status_code == 200, answer.text
                told.append(answer.json()["users"][0]["feedback_events"])
                asked = {"query": "q", "documents": ["a text"], "user": "u"}
                seen = other.post("/v1/rerank", json=asked).json()["meta"]["personalization"]
                if seen["feedback_events"] < told[-1]:
                    stale.append((seen, told[-1]))
        return told

    with ThreadPoolExecutor(WRITERS) as threads:
        written = list(threads.map(write, range(WRITERS)))
    assert stale == []
    assert sorted(n for told in written for n in told) == list(range(1, WRITERS * EVENTS + 1))
    with replicas[0].client() as a, replicas[1].client() as b:
        assert events_of(a) == events_of(b) == WRITERS * EVENTS
        assert results(a) == results(b)
        assert len(set(logged_ids(a))) == WRITERS * EVENTS


def test_the_same_request_to_both_at_once_counts_once(replicas):
    clients = [server.client() for server in replicas]

    def both(send):
        together = threading.Barrier(2)

        def one(client):
            together.wait()
            return send(client).json()

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(one, clients))

    for n in range(10):
        event = VOTE | {"event_id": f"e{n}"}
        found = both(lambda client, event=event: client.post("/v1/feedback", json=event))
        assert sorted(one["accepted"] for one in found) == [0, 1]
        assert sum(one["duplicates"] for one in found) == 1
        key = {"Idempotency-Key": f"k{n}"}
        first, second = both(lambda client, key=key: client.post("/v1/feedback", json=VOTE, headers=key))
        assert first == second
    assert [events_of(client) for client in clients] == [20, 20]
    for client in clients:
        client.close()


def test_the_other_replica_goes_on_when_one_is_killed(replicas, launch, ready):
    doomed, left = replicas
    acknowledged, enough = [], threading.Event()

    def write(worker):
        with doomed.client() as first, left.client() as second:
            clients = [first, second]
            for n in range(60):
                event = VOTE | {"event_id": f"{worker}-{n}", "text": f"text {n % 7}"}
                try:
                    answer = clients[n % len(clients)].post("/v1/feedback", json=event)
                except httpx.TransportError:
                    clients = [second]  # and the event is sent again: it may have been stored, or not
                    answer = second.post("/v1/feedback", json=event)
                assert answer.status_code == 200, answer.text
                assert answer.json()["accepted"] + answer.json()["duplicates"] == 1
                acknowledged.append(event["event_id"])
                if len(acknowledged) == 60:
                    enough.set()

    workers = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for worker in workers:
        worker.start()
    assert enough.wait(timeout=60)
    doomed.end(signal.SIGKILL)
    for worker in workers:
        worker.join()
    with left.client() as client:
        logged = logged_ids(client)
        assert sorted(logged) == sorted(acknowledged)
        assert len(set(logged)) == events_of(client) == 360


def test_a_restart_of_the_database(durable_postgres, launch, ready):
    """While it is away: 503 and when to come back. Then all goes on by itself, and nothing acknowledged is missing."""
    url = durable_postgres.new()
    servers = [ready(launch(PENCHANT_STORE_URL=url, PENCHANT_LOG_LEVEL="WARNING")) for _ in range(2)]
    acknowledged, refusals, stop = [], [], threading.Event()

    def write(worker):
        with servers[worker % 2].client() as client:
            n = 0
            while not stop.is_set():
                event = VOTE | {"event_id": f"{worker}-{n}", "text": f"text {n % 7}"}
                started = time.monotonic()
                answer = client.post("/v1/feedback", json=event)
                if answer.status_code == 200:
                    acknowledged.append(event["event_id"])
                    n += 1
                else:
                    refusals.append((answer.status_code, answer.json()["code"], time.monotonic() - started))
                    assert int(answer.headers["retry-after"]) > 0
                    stop.wait(0.05)  # the same event again

    def wait_for(number):
        deadline = time.monotonic() + 60
        while len(acknowledged) < number:
            assert time.monotonic() < deadline, (acknowledged, refusals)
            time.sleep(0.01)

    workers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    wait_for(40)
    durable_postgres.control("stop", "-m", "immediate")
    with servers[0].client() as client:
        gone = client.post("/v1/best-of-n", json=ASK | {"user": "u"})
        assert (gone.status_code, gone.json()["code"]) == (503, "storage_unavailable")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    durable_postgres.control("start")
    wait_for(len(acknowledged) + 40)
    durable_postgres.control("restart", "-m", "immediate")
    wait_for(len(acknowledged) + 40)
    stop.set()
    for worker in workers:
        worker.join()
    assert {refusal[:2] for refusal in refusals} == {(503, "storage_unavailable")}
    assert max(seconds for *_, seconds in refusals) < 10
    with servers[0].client() as a, servers[1].client() as b:
        logged = logged_ids(a)
        assert len(set(logged)) == len(logged)
        assert set(acknowledged) <= set(logged)
        assert events_of(a) == events_of(b) == len(logged)
        assert results(a) == results(b)
        assert a.get("/readyz").status_code == 200
    assert all(server.process.poll() is None for server in servers)
