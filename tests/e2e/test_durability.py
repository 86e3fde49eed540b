"""What was acknowledged is there after the process was killed, exactly once."""

import json
import signal
import threading

import httpx
import pytest

pytestmark = pytest.mark.slow

VOTE = {"type": "vote", "user": "u", "text": "a text to judge", "value": 1}
CANDIDATES = ["a text to judge", "another text", "and a third one, somewhat longer than the others"]


def results(client, user="u"):
    body = {"prompt": "p", "candidates": CANDIDATES, "user": user}
    return client.post("/v1/best-of-n", json=body).json()["results"]


def test_feedback_survives_sigkill_right_after_the_reply(launch, ready):
    server = ready(launch())
    with server.client() as client:
        before = results(client)
        answer = client.post("/v1/feedback", json=VOTE | {"event_id": "e1"})
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        assert answer.json()["accepted"] == 1
    server = ready(launch())
    with server.client() as client:
        assert client.get("/v1/users/u").json()["feedback_events"] == 1
        assert results(client) != before
        assert client.post("/v1/feedback", json=VOTE | {"event_id": "e1"}).json()["duplicates"] == 1


def test_every_acknowledged_event_survives_sigkill_under_load(launch, ready):
    server = ready(launch())
    acknowledged: list[str] = []
    enough = threading.Event()

    def send(worker):
        with server.client() as client:
            for n in range(10_000):
                event = VOTE | {"event_id": f"{worker}-{n}", "user": f"user {n % 3}", "text": f"text {n % 7}"}
                try:
                    if client.post("/v1/feedback", json=event).json().get("accepted") == 1:
                        acknowledged.append(event["event_id"])
                except (httpx.TransportError, json.JSONDecodeError):
                    return
                if len(acknowledged) >= 60:
                    enough.set()

    workers = [threading.Thread(target=send, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    assert enough.wait(timeout=60)
    server.end(signal.SIGKILL)
    for worker in workers:
        worker.join()
    server = ready(launch())
    with server.client() as client:
        logged = [event_id for n in range(3) for event_id in log_of(client, f"user {n}")]
        versions = [client.get(f"/v1/users/user%20{n}").json() for n in range(3)]
        ranked = [results(client, f"user {n}") for n in range(3)]
    assert len(set(logged)) == len(logged)
    assert set(acknowledged) <= set(logged)
    assert sum(version["feedback_events"] for version in versions) == len(logged)
    # And it stays so: a clean restart changes nothing.
    server.end()
    server = ready(launch())
    with server.client() as client:
        assert [results(client, f"user {n}") for n in range(3)] == ranked


def test_every_kind_of_event_survives_sigkill_and_can_be_taken_back(launch, ready):
    told = {"user": "u", "prompt": "p"}
    events = [
        told | {"type": "preference", "chosen": CANDIDATES[1], "rejected": CANDIDATES[2], "strength": 0.5},
        told | {"type": "choice", "candidates": CANDIDATES, "index": 1, "event_id": "choice"},
        told | {"type": "ranking", "order": [CANDIDATES[:1], CANDIDATES[1:]]},
        told | {"type": "edit", "original": CANDIDATES[0], "edited": CANDIDATES[1]},
    ]
    undo = {"type": "retract", "user": "u", "target_event_id": "choice", "event_id": "undo"}
    server = ready(launch(PENCHANT_FORGETTING_HALF_LIFE_DAYS="1000000"))
    with server.client() as client:
        assert client.post("/v1/feedback", json={"events": events}).json()["accepted"] == 4
        with_choice = results(client)
        server.end(signal.SIGKILL)
    server = ready(launch(PENCHANT_FORGETTING_HALF_LIFE_DAYS="1000000"))
    with server.client() as client:
        assert scores(results(client)) == pytest.approx(scores(with_choice), abs=1e-6)
        assert client.post("/v1/feedback", json=undo).json()["accepted"] == 1
        server.end(signal.SIGKILL)
    server = ready(launch())  # and nothing is forgotten any more: learned again from the log
    with server.client() as client:
        assert client.post("/v1/feedback", json=undo).json()["duplicates"] == 1
        without = [event | {"user": "v"} for event in events if event["type"] != "choice"]
        for event in without:
            event.pop("event_id", None)
        assert client.post("/v1/feedback", json={"events": without}).json()["accepted"] == 3
        assert scores(results(client)) == pytest.approx(scores(results(client, "v")), abs=1e-6)
        assert scores(results(client)) != pytest.approx(scores(with_choice), abs=1e-3)


def scores(found):
    return [result["score"] for result in sorted(found, key=lambda result: result["index"])]


def log_of(client, user):
    cursor = None
    while True:
        page = client.get(
            f"/v1/users/{user}/feedback", params={"limit": 100} | ({"cursor": cursor} if cursor else {})
        )
        yield from (event["event_id"] for event in page.json()["data"])
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return


def test_an_idempotent_retry_after_sigkill_counts_once(launch, ready):
    key = {"Idempotency-Key": "k1"}
    server = ready(launch())
    with server.client() as client:
        first = client.post("/v1/feedback", json=VOTE, headers=key)
        server.end(signal.SIGKILL)
    server = ready(launch())
    with server.client() as client:
        assert client.post("/v1/feedback", json=VOTE, headers=key).content == first.content
        assert client.get("/v1/users/u").json()["feedback_events"] == 1


def test_a_ranking_outlives_a_restart(launch, ready):
    server = ready(launch())
    with server.client() as client:
        asked = {"query": "q", "documents": CANDIDATES, "user": "u"}
        rank_id = client.post("/v1/rerank", json=asked).json()["id"]
    server.end()
    server = ready(launch())
    with server.client() as client:
        vote = {"type": "vote", "rank_id": rank_id, "index": 2, "value": 1}
        assert client.post("/v1/feedback", json=vote).json()["users"][0]["user"] == "u"
        assert client.get("/v1/users/u/feedback").json()["data"][0]["event"]["text"] == CANDIDATES[2]


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_stopping_is_clean(server, how, status):
    assert server.end(how) == status
    log = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert log[0]["event"] == "starting"
    assert log[0]["url"] == server.url
    assert log[0]["database"].endswith("penchant.sqlite3")
    assert log[-1]["event"] == "stopped"


def test_a_second_server_on_the_folder_says_why_it_ends(server, launch):
    second = launch()
    assert second.process.wait(timeout=60) == 1
    assert "Another server uses the data folder" in second.log.read_text().splitlines()[-1]


def test_no_server_without_a_key_beyond_loopback(launch):
    server = launch(PENCHANT_HOST="0.0.0.0")
    assert server.process.wait(timeout=60) == 1
    assert "PENCHANT_API_KEY" in server.log.read_text()
