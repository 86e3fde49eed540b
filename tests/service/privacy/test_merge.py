"""Merging a provisional id into a known user joins their logs and states and loses nothing."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from penchant.service.privacy.merging import merge_order

Serve = Callable[..., TestClient]
TEXTS = [f"text {number} " + "w" * (3 * number) for number in range(8)]


def prefer(client: TestClient, user: str, better: int, worse: int, **more: Any) -> None:
    event = {"type": "preference", "user": user, "chosen": TEXTS[better], "rejected": TEXTS[worse], **more}
    answer = client.post("/v1/feedback", json=event)
    assert answer.json()["accepted"] == 1, answer.text


def merge(client: TestClient, user: str, source: str) -> dict[str, Any]:
    answer = client.post(f"/v1/users/{user}/merge", json={"from": source})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def event_ids(client: TestClient, user: str) -> list[str]:
    page = client.get(f"/v1/users/{user}/feedback", params={"limit": 100}).json()
    seqs = [event["seq"] for event in page["data"]]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    return [event["event_id"] for event in page["data"]]


def state(client: TestClient, user: str) -> Any:
    description = client.get(f"/v1/users/{user}").json()
    return description["archetype_weights"], description["uncertainty"], description["reasons"]["attributes"]


def test_logs_are_merged_by_time_and_learned_as_one(serve: Serve, clock: Any, fresh: Any) -> None:
    judgements = [("b", 5, 1), ("a", 1, 3), ("b", 6, 2), ("a", 4, 2), ("a", 7, 0), ("b", 2, 5)]
    client = serve()
    for number, (user, better, worse) in enumerate(judgements):
        clock.now += 60
        prefer(client, user, better, worse, event_id=f"e{number}")
    before = client.get("/v1/users/a").json()["posterior_version"]
    assert merge(client, "a", "b")["merged_events"] == 3
    assert event_ids(client, "a") == [f"e{number}" for number in range(6)]
    description = client.get("/v1/users/a").json()
    assert description["feedback_events"] == 6
    assert description["posterior_version"] > before
    assert client.get("/v1/users/b").status_code == 404
    merged = state(client, "a")
    clock.now -= 60 * len(judgements)
    other = serve(**fresh.place)
    for number, (_, better, worse) in enumerate(judgements):
        clock.now += 60
        prefer(other, "a", better, worse, event_id=f"e{number}")
    assert state(other, "a") == merged


def test_merging_again_changes_nothing(client: TestClient) -> None:
    prefer(client, "a", 1, 2)
    prefer(client, "b", 1, 2)
    first = merge(client, "a", "b")
    again = merge(client, "a", "b")
    assert (first["merged_events"], again["merged_events"]) == (1, 0)
    assert again["posterior_version"] == first["posterior_version"]
    assert again["feedback_events"] == 2


def test_an_unknown_user_takes_over_the_log_and_continues(client: TestClient) -> None:
    prefer(client, "guest", 1, 2, event_id="x")
    assert merge(client, "ana", "guest") == {
        "user": "ana",
        "merged_events": 1,
        "feedback_events": 1,
        "posterior_version": 2,
    }
    prefer(client, "ana", 3, 2)
    client.post("/v1/feedback", json={"type": "retract", "user": "ana", "target_event_id": "x"})
    assert client.get("/v1/users/ana").json()["feedback_events"] == 3
    assert len(event_ids(client, "ana")) == 3


def test_an_event_repeated_after_the_merge_counts_once(client: TestClient) -> None:
    event = {"type": "vote", "user": "guest", "text": TEXTS[1], "value": 1, "event_id": "x"}
    keyed = {"Idempotency-Key": "k"}
    first = client.post("/v1/feedback", json=event, headers=keyed).json()
    merge(client, "ana", "guest")
    assert client.post("/v1/feedback", json=event, headers=keyed).json() == first
    assert client.post("/v1/feedback", json=event).json()["duplicates"] == 1
    assert client.get("/v1/users/guest").status_code == 404


def test_rankings_of_the_provisional_user_can_still_be_judged(client: TestClient) -> None:
    prefer(client, "guest", 1, 2)
    body = {"query": "q", "documents": TEXTS, "user": "guest"}
    rank_id = client.post("/v1/rerank", json=body).json()["id"]
    merge(client, "ana", "guest")
    answer = client.post(
        "/v1/feedback", json={"type": "choice", "rank_id": rank_id, "index": 2, "user": "ana"}
    )
    assert answer.json()["accepted"] == 1


def test_feedback_during_a_merge_is_not_lost(client: TestClient) -> None:
    def teach(user: str) -> None:
        for number in range(20):
            prefer(client, user, number % 7 + 1, number % 7)

    prefer(client, "guest", 1, 2)
    threads = [threading.Thread(target=teach, args=(user,)) for user in ("ana", "guest")]
    for thread in threads:
        thread.start()
    for _ in range(5):
        merge(client, "ana", "guest")
    for thread in threads:
        thread.join()
    assert merge(client, "ana", "guest")["feedback_events"] == 41
    assert len(event_ids(client, "ana")) == 41


def test_invalid_merges_are_refused(client: TestClient) -> None:
    assert client.post("/v1/users/a/merge", json={"from": "b"}).json()["code"] == "user_not_found"
    for body in ({"from": "a"}, {"from": ""}, {}, {"from": "b", "more": 1}):
        answer = client.post("/v1/users/a/merge", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize(
    ("into", "source", "expected"),
    [
        ([(1, 5.0), (2, 9.0)], [(1, 7.0)], [(0, 1), (1, 1), (0, 2)]),
        ([(1, 5.0)], [(1, 5.0)], [(0, 1), (1, 1)]),  # at the same time: the user's own event comes first
        ([(2, 9.0), (5, 1.0)], [(1, 4.0)], [(1, 1), (0, 2), (0, 5)]),  # the clock was set back
        ([], [(3, 1.0), (9, 2.0)], [(1, 3), (1, 9)]),
    ],
)
def test_merged_events_are_ordered_by_time(into: Any, source: Any, expected: Any) -> None:
    order = merge_order((into, source), (0.0, 0.0), limit=10)
    assert [(which, seq) for which, seq, _ in order] == expected
