"""Judgements older than a tenant's retention period are deleted, along with what was learned from them."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from penchant.service.access.limits import TenantSettings, put_settings
from penchant.service.privacy import retention

Serve = Callable[..., TestClient]
DAY = 86_400.0
HOURS_OF_YEARS = 100_000.0  # jumps of the clock by less are followed at once
TEXTS = [f"text {number} " + "w" * (3 * number) for number in range(8)]


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """Server whose tenant keeps judgements for 30 days."""
    client = serve(expiry_interval_seconds=3600.0, expiry_grace_hours=HOURS_OF_YEARS)
    runtime = client.app.state.runtime
    with runtime.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(retention_days=30), 0.0)
    runtime.feed.poll()
    return client


def prefer(client: TestClient, user: str, better: int, worse: int, **more: Any) -> None:
    event = {"type": "preference", "user": user, "chosen": TEXTS[better], "rejected": TEXTS[worse], **more}
    assert client.post("/v1/feedback", json=event).json()["accepted"] == 1


def expire(client: TestClient, clock: Any) -> None:
    """Move the clock and send an event, after which the writer removes expired judgements."""
    clock.now += 3601.0
    for _ in range(8):
        client.delete("/v1/users/nobody")


def rerank(client: TestClient, user: str) -> Any:
    return client.post("/v1/rerank", json={"query": "q", "documents": TEXTS, "user": user}).json()["results"]


def test_expired_judgements_have_no_effect(
    client: TestClient, serve: Serve, clock: Any, store: Any, fresh: Any
) -> None:
    prefer(client, "u", 7, 0, event_id="old")
    clock.now += 20 * DAY
    prefer(client, "u", 2, 5, event_id="new")
    prefer(client, "u", 1, 5)
    prefer(client, "v", 7, 3)
    clock.now += 11 * DAY
    expire(client, clock)
    description = client.get("/v1/users/u").json()
    assert description["feedback_events"] == 2
    assert description["posterior_version"] == 4
    page = client.get("/v1/users/u/feedback").json()["data"]
    assert [event["seq"] for event in page] == [2, 3]
    feature_count = store.run("SELECT count(*) FROM features")
    assert feature_count == [(5,)]  # v still needs text 7; no user needs text 0
    results = rerank(client, "u")
    prefer(client, "u", 4, 6)
    (last,) = store.run("SELECT max(seq) FROM feedback_events WHERE user_id = 'u'")
    assert last == (4,)
    assert client.get("/metrics").text.count("penchant_outlived_events_total 1.0") == 1
    other = serve(**fresh.place)
    prefer(other, "u", 2, 5)
    prefer(other, "u", 1, 5)
    expected_results = rerank(other, "u")
    for actual, expected in zip(results, expected_results, strict=True):
        assert actual["index"] == expected["index"]
        assert actual["relevance_score"] == pytest.approx(expected["relevance_score"], abs=1e-9)


def test_a_user_whose_judgements_all_expired_is_removed(client: TestClient, clock: Any, store: Any) -> None:
    prefer(client, "u", 7, 0)
    rerank(client, "u")
    clock.now += 31 * DAY
    expire(client, clock)
    assert client.get("/v1/users/u").status_code == 404
    for table in ("users", "user_states", "feedback_events", "judged_items", "features", "rankings"):
        assert store.run(f"SELECT count(*) FROM {table}") == [(0,)], table
    prefer(client, "u", 1, 2)
    assert client.get("/v1/users/u").json()["feedback_events"] == 1


def test_a_retraction_expires_with_the_retracted_event(client: TestClient, clock: Any, store: Any) -> None:
    """If the clock was set back, the retraction may be older than the retracted event."""
    prefer(client, "u", 7, 0, event_id="x")
    clock.now -= 10 * DAY
    client.post("/v1/feedback", json={"type": "retract", "user": "u", "target_event_id": "x"})
    clock.now += 10 * DAY
    prefer(client, "u", 1, 2)
    clock.now += 25 * DAY
    expire(client, clock)
    assert store.run("SELECT seq FROM feedback_events") == [(3,)]


def test_an_id_that_was_used_again_expires_with_each_event(
    client: TestClient, clock: Any, store: Any
) -> None:
    undo = {"type": "retract", "user": "u", "target_event_id": "x", "event_id": "undo x"}
    prefer(client, "u", 7, 0, event_id="x")
    client.post("/v1/feedback", json=undo)
    clock.now += 20 * DAY
    prefer(client, "u", 7, 0, event_id="x")
    prefer(client, "once", 7, 0)
    clock.now += 11 * DAY
    expire(client, clock)
    assert store.run("SELECT seq FROM feedback_events WHERE user_id = 'u'") == [(3,)]
    assert rerank(client, "u") == rerank(client, "once")
    assert client.post("/v1/feedback", json=undo).json()["accepted"] == 1
    assert rerank(client, "u") == rerank(client, "nobody")


def test_a_retraction_that_outlives_its_event_does_not_concern_a_new_one(
    client: TestClient, clock: Any, store: Any
) -> None:
    undo = {"type": "retract", "user": "u", "target_event_id": "x"}
    prefer(client, "u", 7, 0, event_id="x")
    clock.now += 20 * DAY
    client.post("/v1/feedback", json=undo)
    clock.now += 11 * DAY
    expire(client, clock)
    assert store.run("SELECT seq FROM feedback_events") == [(2,)]
    prefer(client, "u", 7, 0, event_id="x")
    prefer(client, "once", 7, 0)
    assert rerank(client, "u") == rerank(client, "once")
    event = {"type": "preference", "user": "u", "chosen": TEXTS[7], "rejected": TEXTS[0], "event_id": "x"}
    assert client.post("/v1/feedback", json=event).json()["duplicates"] == 1
    assert client.post("/v1/feedback", json=undo).json()["accepted"] == 1
    assert rerank(client, "u") == rerank(client, "nobody")


def test_a_judgement_expires_by_its_arrival(client: TestClient, clock: Any) -> None:
    prefer(client, "u", 7, 0, timestamp="2001-01-01T00:00:00Z")
    expire(client, clock)
    assert client.get("/v1/users/u").json()["feedback_events"] == 1
    clock.now += 31 * DAY
    expire(client, clock)
    assert client.get("/v1/users/u").status_code == 404


def test_many_users_expire_in_small_steps(
    client: TestClient, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "USERS_AT_ONCE", 2)
    for number in range(7):
        prefer(client, f"u{number}", 7, 0)
    clock.now += 31 * DAY
    expire(client, clock)
    assert [client.get(f"/v1/users/u{number}").status_code for number in range(7)] == [404] * 7


def test_a_clock_that_jumps_removes_nothing(client: TestClient, serve: Serve, clock: Any, store: Any) -> None:
    """Neither events nor rankings, answers or usage, while it is wrong or afterwards, with or without a restart."""
    client = serve(tenant_events_per_day=1000)
    prefer(client, "u", 7, 0, event_id="kept")
    rerank(client, "u")
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    client.post("/v1/feedback", json=vote, headers={"Idempotency-Key": "k"})
    client = serve()

    def count() -> list[Any]:
        tables = ("feedback_events", "rankings", "idempotency", "tenant_usage")
        return [store.run(f"SELECT count(*) FROM {table}") for table in tables]

    before = count()
    assert [(0,)] not in before
    clock.now += 400 * DAY
    expire(client, clock)
    assert "penchant_clock_jumps_total 1.0" in client.get("/metrics").text
    assert "penchant_clock_ahead_seconds 3.4" in client.get("/metrics").text
    client = serve()
    expire(client, clock)
    clock.now -= 400 * DAY
    expire(client, clock)
    assert "penchant_clock_ahead_seconds 0.0" in client.get("/metrics").text
    assert count() == before
    clock.now -= 400 * DAY
    expire(client, clock)
    assert client.get("/readyz").status_code == 200
    assert count() == before


def test_other_tenants_keep_their_judgements(client: TestClient, clock: Any) -> None:
    runtime = client.app.state.runtime
    with runtime.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(), 0.0)
        put_settings(connection, "another", TenantSettings(retention_days=1), 0.0)
    runtime.feed.poll()
    prefer(client, "u", 7, 0)
    clock.now += 300 * DAY
    expire(client, clock)
    assert client.get("/v1/users/u").json()["feedback_events"] == 1
