"""Judgements that are older than a tenant keeps them go, and what was learned from them goes with them."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from penchant.service.access.tenancy import TenantSettings, put_settings
from penchant.service.privacy import retention

Serve = Callable[..., TestClient]
DAY = 86_400.0
TEXTS = [f"text {number} " + "w" * (3 * number) for number in range(8)]


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """A server whose tenant keeps judgements for 30 days."""
    found = serve(expiry_interval_seconds=3600.0)
    served = found.app.state.runtime
    with served.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(retention_days=30), 0.0)
    served.feed.poll()
    return found


def prefer(client: TestClient, user: str, better: int, worse: int, **more: Any) -> None:
    event = {"type": "preference", "user": user, "chosen": TEXTS[better], "rejected": TEXTS[worse], **more}
    assert client.post("/v1/feedback", json=event).json()["accepted"] == 1


def expire(client: TestClient, clock: Any) -> None:
    """The writer looks what is too old when its time has come, after whatever it writes."""
    clock.now += 3601.0
    for _ in range(8):
        client.delete("/v1/users/nobody")


def ranked(client: TestClient, user: str) -> Any:
    return client.post("/v1/rerank", json={"query": "q", "documents": TEXTS, "user": user}).json()["results"]


def test_what_is_old_is_as_if_it_had_never_been_said(
    client: TestClient, serve: Serve, clock: Any, store: Any, fresh: Any
) -> None:
    prefer(client, "u", 7, 0, event_id="old")
    clock.now += 20 * DAY
    prefer(client, "u", 2, 5, event_id="new")
    prefer(client, "u", 1, 5)
    prefer(client, "v", 7, 3)
    clock.now += 11 * DAY
    expire(client, clock)
    told = client.get("/v1/users/u").json()
    assert told["feedback_events"] == 2
    assert told["posterior_version"] == 4
    page = client.get("/v1/users/u/feedback").json()["data"]
    assert [event["seq"] for event in page] == [2, 3]
    held = store.run("SELECT count(*) FROM features")
    assert held == [(5,)]  # text 7 is needed by v, text 0 by nobody
    after = ranked(client, "u")
    prefer(client, "u", 4, 6)
    (last,) = store.run("SELECT max(seq) FROM feedback_events WHERE user_id = 'u'")
    assert last == (4,)
    assert client.get("/metrics").text.count("penchant_outlived_events_total 1.0") == 1
    other = serve(**fresh.place)
    prefer(other, "u", 2, 5)
    prefer(other, "u", 1, 5)
    again = ranked(other, "u")
    for mine, theirs in zip(after, again, strict=True):
        assert mine["index"] == theirs["index"]
        assert mine["relevance_score"] == pytest.approx(theirs["relevance_score"], abs=1e-9)


def test_of_whom_all_is_old_nothing_is_left(client: TestClient, clock: Any, store: Any) -> None:
    prefer(client, "u", 7, 0)
    ranked(client, "u")
    clock.now += 31 * DAY
    expire(client, clock)
    assert client.get("/v1/users/u").status_code == 404
    for table in ("users", "user_states", "feedback_events", "judged_items", "features", "rankings"):
        assert store.run(f"SELECT count(*) FROM {table}") == [(0,)], table
    prefer(client, "u", 1, 2)
    assert client.get("/v1/users/u").json()["feedback_events"] == 1


def test_a_retraction_takes_along_what_it_takes_back(client: TestClient, clock: Any, store: Any) -> None:
    """A clock that was set back may make the retraction the older of the two."""
    prefer(client, "u", 7, 0, event_id="x")
    clock.now -= 10 * DAY
    client.post("/v1/feedback", json={"type": "retract", "user": "u", "target_event_id": "x"})
    clock.now += 10 * DAY
    prefer(client, "u", 1, 2)
    clock.now += 25 * DAY
    expire(client, clock)
    assert store.run("SELECT seq FROM feedback_events") == [(3,)]


def test_many_users_go_in_small_steps(
    client: TestClient, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "USERS_AT_ONCE", 2)
    for number in range(7):
        prefer(client, f"u{number}", 7, 0)
    clock.now += 31 * DAY
    expire(client, clock)
    assert [client.get(f"/v1/users/u{number}").status_code for number in range(7)] == [404] * 7


def test_other_tenants_keep_what_is_theirs(client: TestClient, clock: Any) -> None:
    served = client.app.state.runtime
    with served.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(), 0.0)
        put_settings(connection, "another", TenantSettings(retention_days=1), 0.0)
    served.feed.poll()
    prefer(client, "u", 7, 0)
    clock.now += 300 * DAY
    expire(client, clock)
    assert client.get("/v1/users/u").json()["feedback_events"] == 1
