"""Deletions and merges of long logs, which are made in parts between which others are served."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from starlette.testclient import TestClient

from penchant.service.privacy import merging
from penchant.service.privacy.deleting import delete_step
from penchant.service.privacy.merging import merge_step
from penchant.service.settings import Settings
from penchant.service.store.database import Store
from penchant.service.store.long_logs import user_changes
from penchant.service.users.catching_up import CHECKPOINT_EVENTS

Serve = Callable[..., TestClient]
TEXTS = [f"text {number} " + "w" * (3 * number) for number in range(8)]
ASK = {"prompt": "p", "candidates": TEXTS[:4]}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (user_changes, merging):
        monkeypatch.setattr(module, "PART_EVENTS", 3)
    monkeypatch.setattr(user_changes, "PART_ROWS", 2)


def teach(client: TestClient, clock: Any, plan: str, start: int = 0) -> None:
    """Send one preference for each letter of the plan, which names the user. Each has an id of its own."""
    for number, user in enumerate(plan, start):
        clock.now += 60
        chosen, rejected = TEXTS[number % 7 + 1], TEXTS[number * 3 % 7]
        event = {
            "type": "preference",
            "user": user,
            "chosen": chosen,
            "rejected": f"{rejected} {number}",
            "event_id": f"e{number}",
        }
        answer = client.post("/v1/feedback", json=event, headers={"Idempotency-Key": f"k{number}"})
        assert answer.json()["accepted"] == 1, answer.text


def results(client: TestClient, user: str) -> Any:
    return client.post("/v1/best-of-n", json=ASK | {"user": user}).json()["results"]


def event_ids(client: TestClient, user: str) -> list[str]:
    page = client.get(f"/v1/users/{user}/feedback", params={"limit": 100}).json()
    return [event["event_id"] for event in page["data"]]


def run_steps(settings: Settings, step: Callable[..., Any], number: int, *names: str, **options: Any) -> None:
    """Run some transactions of a change as a server does that stops after them."""
    store = Store.open(settings, exclusive=False)
    try:
        for _ in range(number):
            with store.writing() as connection:
                assert not step(connection, "default", *names, **options).is_done
    finally:
        store.close()


PLAN = "aabbbbabaaaabbbbbbbaab"


def test_a_merge_in_parts_is_the_same_as_one_log(serve: Serve, clock: Any, fresh: Any) -> None:
    client = serve()
    teach(client, clock, PLAN)
    answer = client.post("/v1/users/a/merge", json={"from": "b"}).json()
    assert (answer["merged_events"], answer["feedback_events"]) == (PLAN.count("b"), len(PLAN))
    assert event_ids(client, "a") == [f"e{number}" for number in range(len(PLAN))]
    assert client.get("/v1/users/b").status_code == 404
    merged = results(client, "a")
    clock.now -= 60 * len(PLAN)
    other = serve(**fresh.place)
    teach(other, clock, "a" * len(PLAN))
    assert results(other, "a") == merged


@pytest.mark.parametrize("plan", ["a" * 12 + "b" * 12, "ab" * 12])
def test_a_part_of_a_merge_takes_few_statements_however_the_logs_alternate(
    serve: Serve, settings: Settings, clock: Any, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    monkeypatch.setattr(user_changes, "PART_EVENTS", 24)
    monkeypatch.setattr(merging, "PART_EVENTS", 24)
    teach(serve(), clock, plan)
    statements: list[str] = []
    store = Store.open(settings, exclusive=False)
    event.listen(
        store._writer, "before_cursor_execute", lambda _connection, _cursor, sql, *_: statements.append(sql)
    )
    with store.writing() as connection:
        assert merge_step(connection, "default", "a", "b").merged == 12
    store.close()
    assert sum(sql.startswith("UPDATE feedback_events") for sql in statements) == 2
    assert sum(sql.startswith("UPDATE judged_items") for sql in statements) == 2


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_an_interrupted_merge_is_continued_by_the_next_server(
    serve: Serve, settings: Settings, clock: Any, store: Any, steps: int
) -> None:
    client = serve()
    teach(client, clock, PLAN)
    serve(data_dir=settings.data_dir / "elsewhere", store_url=None)
    run_steps(settings, merge_step, steps, "a", "b")
    client = serve()
    while store.run("SELECT 1 FROM users WHERE pending IS NOT NULL"):
        client.get("/healthz")  # the writer's thread is at work
    assert event_ids(client, "a") == [f"e{number}" for number in range(len(PLAN))]
    assert client.get("/v1/users/a").json()["feedback_events"] == len(PLAN)
    assert client.get("/v1/users/b").status_code == 404
    interrupted = results(client, "a")
    again = serve()
    assert results(again, "a") == interrupted
    teach(again, clock, "a", start=len(PLAN))


def test_users_are_ranked_and_take_no_feedback_while_they_are_merged(
    serve: Serve, settings: Settings, clock: Any
) -> None:
    client = serve()
    teach(client, clock, PLAN + "c")
    before = {user: results(client, user) for user in "abc"}
    run_steps(settings, merge_step, 2, "a", "b")
    for user in "ab":
        event = {"type": "vote", "user": user, "text": TEXTS[1], "value": 1, "event_id": "x"}
        answer = client.post("/v1/feedback", json={"events": [event, event | {"user": "c", "event_id": "y"}]})
        assert (answer.status_code, answer.json()["code"]) == (409, "user_busy")
        assert answer.headers["Retry-After"] == "1"
        assert client.delete(f"/v1/users/{user}").json()["code"] == "user_busy"
        assert client.post(f"/v1/users/{user}/merge", json={"from": "c"}).json()["code"] == "user_busy"
    assert {user: results(client, user) for user in "abc"} == before
    assert client.get("/v1/users/c").json()["feedback_events"] == 1  # a refused request stores nothing
    teach(client, clock, "c", start=50)
    assert client.post("/v1/users/a/merge", json={"from": "b"}).json()["feedback_events"] == len(PLAN)
    teach(client, clock, "ac", start=60)
    assert client.get("/v1/users/a").json()["feedback_events"] == len(PLAN) + 1


def test_a_deletion_in_parts_leaves_nothing(serve: Serve, clock: Any, store: Any) -> None:
    client = serve()
    teach(client, clock, PLAN)
    for _ in range(5):
        results(client, "a")
    assert client.delete("/v1/users/a").status_code == 204
    for table in ("feedback_events", "judged_items", "users", "user_states", "rankings", "answered_users"):
        assert store.run(f"SELECT DISTINCT user_id FROM {table} WHERE user_id = 'a'") == []
    assert len(store.run("SELECT 1 FROM idempotency")) == PLAN.count("b")
    kept = store.run("SELECT feature_key FROM features EXCEPT SELECT feature_key FROM judged_items")
    assert kept == []
    assert event_ids(client, "b") == [f"e{number}" for number, user in enumerate(PLAN) if user == "b"]


def test_other_servers_search_their_caches_for_a_deleted_user_twice(
    serve: Serve, settings: Settings, clock: Any
) -> None:
    """When the user becomes unknown, and when nothing is left, however many parts there are between."""
    teach(serve(), clock, PLAN)
    store = Store.open(settings, exclusive=False)
    told, is_done = [], False
    while not is_done:
        with store.writing() as connection:
            step = delete_step(connection, "default", "a", user_hash="hash", keys=[])
        told.append(step.deletion.user)
        is_done = step.is_done
    store.close()
    assert len(told) > 3
    assert told == ["hash", *[None] * (len(told) - 2), "hash"]


def test_an_interrupted_deletion_makes_the_user_unknown_and_is_continued(
    serve: Serve, settings: Settings, clock: Any, store: Any
) -> None:
    client = serve()
    teach(client, clock, PLAN)
    serve(data_dir=settings.data_dir / "elsewhere", store_url=None)
    run_steps(settings, delete_step, 1, "a", user_hash="", keys=())
    client = serve()
    assert client.get("/v1/users/a").status_code == 404
    while store.run("SELECT 1 FROM users WHERE pending IS NOT NULL"):
        client.get("/healthz")
    assert store.run("SELECT count(*) FROM feedback_events WHERE user_id = 'a'") == [(0,)]
    teach(client, clock, "a", start=40)
    assert client.get("/v1/users/a").json()["feedback_events"] == 1


def test_a_popular_text_is_not_searched_for_all_who_judged_it(
    serve: Serve, settings: Settings, store: Any
) -> None:
    """The statement that decides which features go stops at the first judgement that needs them."""
    client = serve()
    for user in "abc":
        client.post("/v1/feedback", json={"type": "vote", "user": user, "text": "popular", "value": 1})
    client.post("/v1/feedback", json={"type": "vote", "user": "a", "text": "rare", "value": 1})
    client.delete("/v1/users/a")
    assert len(store.run("SELECT 1 FROM features")) == 1
    if store.is_postgres:
        return
    database = Store.open(settings, exclusive=False)
    plan = (
        "EXPLAIN QUERY PLAN DELETE FROM features WHERE tenant = 't' AND extractor = 'e' AND feature_key IN ('k')"
        " AND NOT EXISTS (SELECT 1 FROM judged_items WHERE judged_items.tenant = features.tenant AND"
        " judged_items.extractor = features.extractor AND judged_items.feature_key = features.feature_key)"
    )
    with database.reading() as connection:
        steps = " ".join(row[-1] for row in connection.execute(text(plan)))
    database.close()
    assert "SCAN" not in steps
    assert "judged_items_by_feature" in steps


def test_checkpoints_go_with_the_states(serve: Serve, clock: Any, store: Any) -> None:
    client = serve()
    for start in range(0, CHECKPOINT_EVENTS + 4, 100):
        votes = [
            {"type": "vote", "user": "a", "text": TEXTS[n % 8], "value": 1 if n % 3 else -1}
            for n in range(start, min(start + 100, CHECKPOINT_EVENTS + 4))
        ]
        assert client.post("/v1/feedback", json={"events": votes}).status_code == 200
    assert store.run("SELECT user_id, seq FROM checkpoints") == [("a", CHECKPOINT_EVENTS)]
    client.delete("/v1/users/a")
    assert store.run("SELECT user_id, seq FROM checkpoints") == []
