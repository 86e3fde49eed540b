"""Two servers on one database lose nothing, count nothing twice, and see each other's events immediately."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.app import create_app
from penchant.service.feedback.recorder import MAX_INLINE_EVENTS
from penchant.service.settings import Settings
from penchant.service.users.catching_up import replay_log

VOTE = {"type": "vote", "user": "u", "text": "boat sea", "prompt": "p", "value": 1}
CANDIDATES = ["boat sea", "tree house", "many words " * 20]


@pytest.fixture
def replicas(postgres, tmp_path):
    url = postgres.new()
    with ExitStack() as stack:
        extractor = FeatureExtractor(HashingEncoder())
        yield [
            stack.enter_context(
                TestClient(
                    create_app(
                        Settings(data_dir=tmp_path, store_url=url),
                        extractor=extractor,
                        bundle=tiny_bundle(extractor),
                    ),
                    raise_server_exceptions=False,
                )
            )
            for _ in range(2)
        ]
    postgres.drop(url)


def send(client, *events, status=200, key=None):
    body = events[0] if len(events) == 1 else {"events": list(events)}
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.post("/v1/feedback", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def results(client, user="u"):
    body = {"prompt": "p", "candidates": CANDIDATES, "user": user}
    return client.post("/v1/best-of-n", json=body).json()["results"]


def events_of(client, user="u"):
    answer = client.get(f"/v1/users/{user}")
    return answer.json()["feedback_events"] if answer.status_code == 200 else None


def test_each_replica_sees_events_sent_to_the_other(replicas):
    a, b = replicas
    assert results(a) == results(b)  # both cache that the user is unknown
    for n in range(6):
        writer, reader = (a, b) if n % 2 else (b, a)
        before = results(reader)
        send(writer, VOTE | {"text": f"{CANDIDATES[n % 3]} {n}", "value": 1 if n % 3 else -1})
        assert results(reader) == results(writer) != before
        assert events_of(reader) == n + 1


def test_a_user_deleted_on_one_replica_is_unknown_to_the_other(replicas):
    a, b = replicas
    nobody = results(b)
    send(a, VOTE)
    assert results(b) != nobody
    assert a.delete("/v1/users/u").status_code == 204
    assert (events_of(b), results(b)) == (None, nobody)
    send(b, VOTE | {"value": -1})  # a new user with the same id
    assert (events_of(a), results(a)) == (1, results(b))


def test_a_retraction_is_seen_by_the_other_replica(replicas):
    a, b = replicas
    send(a, *[VOTE | {"text": f"text {n}", "event_id": f"e{n}"} for n in range(MAX_INLINE_EVENTS + 5)])
    without = [VOTE | {"user": "w", "text": f"text {n}"} for n in range(MAX_INLINE_EVENTS + 5) if n != 7]
    send(a, *without)
    assert results(b) == results(a)
    send(b, {"type": "retract", "user": "u", "target_event_id": "e7"})
    assert results(a) == results(b) == results(a, "w")


def run_together(*calls):
    """Run the calls in parallel and return their results."""
    together = threading.Barrier(len(calls))

    def run(call):
        together.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def test_concurrent_writes_on_both_replicas_lose_nothing(replicas):
    """Every answer has its own version, the log holds all events, and the next ranking includes one's own writes."""

    def write(client, worker):
        counts = []
        for n in range(8):
            body = send(client, VOTE | {"text": f"{worker} {n % 4}", "event_id": f"{worker}-{n}"})
            counts.append(body["users"][0]["feedback_events"])
            other = replicas[(worker + n) % 2]
            request = {"query": "q", "documents": ["a"], "user": "u"}
            personalization = other.post("/v1/rerank", json=request).json()["meta"]["personalization"]
            assert personalization["feedback_events"] >= counts[-1]
        return counts

    written = run_together(*[partial(write, replicas[worker % 2], worker) for worker in range(8)])
    assert sorted(n for counts in written for n in counts) == list(range(1, 65))
    assert [events_of(client) for client in replicas] == [64, 64]
    assert results(replicas[0]) == results(replicas[1])
    runtime = replicas[0].app.state.runtime
    fold, database = runtime.models.current.replayer._fold, runtime.store
    with database.reading() as connection:
        evidence, _ = replay_log(connection, ("default", "u"), fold, 64)
        ((saved,),) = connection.exec_driver_sql("SELECT state FROM user_states").fetchall()
    assert evidence.posterior.to_bytes() == bytes(saved)


def test_one_event_id_counts_once(replicas):
    for n in range(6):
        answers = run_together(*[partial(send, client, VOTE | {"event_id": f"e{n}"}) for client in replicas])
        assert sorted((a["accepted"], a["duplicates"]) for a in answers) == [(0, 1), (1, 0)]
    assert events_of(replicas[0]) == events_of(replicas[1]) == 6


def code(client, user, event_id):
    answer = client.post("/v1/feedback", json=VOTE | {"event_id": event_id, "user": user})
    return answer.json().get("code", "accepted")


def test_an_event_id_sent_for_two_users_belongs_to_one(replicas):
    """The servers share no lock, so the unique key of the database decides."""

    for n in range(6):
        calls = [
            partial(code, *client_and_user, f"e{n}")
            for client_and_user in zip(replicas, ("u", "v"), strict=True)
        ]
        assert sorted(run_together(*calls)) == ["accepted", "event_id_conflict"]
    assert sum(events_of(replicas[0], user) or 0 for user in ("u", "v")) == 6


def test_one_idempotency_key_counts_once(replicas):
    for n in range(6):
        first, second = run_together(*[partial(send, client, VOTE, key=f"k{n}") for client in replicas])
        assert first == second
        assert first["users"][0]["feedback_events"] == n + 1
    refused = send(replicas[1], VOTE | {"value": -1}, key="k0", status=422)
    assert refused["code"] == "idempotency_key_reused"
    assert events_of(replicas[0]) == 6


def test_an_expired_answer_is_replaced(replicas):
    first = send(replicas[0], VOTE, key="k")
    with replicas[0].app.state.runtime.store.writing() as connection:
        connection.exec_driver_sql("UPDATE idempotency SET created_at = created_at - 100000")
    again = send(replicas[1], VOTE, key="k")
    assert (first["users"][0]["feedback_events"], again["users"][0]["feedback_events"]) == (1, 2)
    assert send(replicas[0], VOTE, key="k") == again


def test_a_commit_with_an_unknown_outcome_counts_once(replicas):
    """If the connection breaks after the commit, the retry finds the event already in the log."""
    runtime = replicas[0].app.state.runtime
    broken = []

    def break_once(connection):
        if not broken:
            broken.append(connection)
            connection.connection.commit()
            connection.connection.driver_connection.close()

    event.listen(runtime.store._writer, "commit", break_once)
    answer = send(replicas[0], VOTE)
    assert (answer["accepted"], answer["duplicates"]) == (1, 0)
    assert broken
    assert [events_of(client) for client in replicas] == [1, 1]


def test_a_commit_with_an_unknown_outcome_is_not_done_twice(replicas):
    """Nor is what the request retracted itself, whose ids it used again."""
    runtime = replicas[0].app.state.runtime
    send(replicas[0], VOTE | {"event_id": "e"})
    undo = {"type": "retract", "user": "u", "target_event_id": "e"}
    requests = (
        [VOTE | {"event_id": "e"}, undo],
        [VOTE | {"event_id": "e"}, undo, VOTE | {"event_id": "e", "value": -1}],
    )
    for events, accepted in zip(requests, (1, 2), strict=True):
        before, broken = events_of(replicas[0]), []

        def break_once(connection, broken=broken):
            if not broken:
                broken.append(connection)
                connection.connection.commit()
                connection.connection.driver_connection.close()

        event.listen(runtime.store._writer, "commit", break_once)
        answer = send(replicas[0], *events)
        event.remove(runtime.store._writer, "commit", break_once)
        assert broken
        assert answer["rejected"] == []
        assert [events_of(client) for client in replicas] == [before + len(events) - (accepted == 1)] * 2
        assert results(replicas[0]) == results(replicas[1])


def test_another_user_takes_over_an_id_on_the_other_replica(replicas):
    """Both users' logs are locked. If that takes long or deadlocks, the transaction is tried again."""
    for n in range(6):
        like = VOTE | {"event_id": f"e{n}"}
        send(replicas[n % 2], like)
        send(replicas[n % 2], {"type": "retract", "user": "u", "target_event_id": f"e{n}"})
        calls = [
            partial(code, client, user, f"e{n}") for client, user in zip(replicas, ("v", "w"), strict=True)
        ]
        assert sorted(run_together(*calls)) == ["accepted", "event_id_conflict"]
    assert results(replicas[0], "u") == results(replicas[1], None)


def test_an_unreadable_store_is_reported_by_every_route(replicas):
    """Every route reports it. The process keeps running and serves again as soon as the store does."""
    client = replicas[0]
    send(client, VOTE, VOTE | {"event_id": "e"})
    readers = client.app.state.runtime.store._readers

    def gone(_connection, _cursor, statement, *_rest):
        raise OperationalError(statement, {}, OSError("secret address"))

    event.listen(readers, "before_cursor_execute", gone)
    answers = [
        client.post("/v1/rerank", json={"query": "q", "documents": ["new"], "user": "u"}),
        client.post("/v1/best-of-n", json={"candidates": ["boat sea"], "user": "u"}),
        client.post(
            "/v1/feedback", json={"type": "vote", "user": "u", "rank_id": "r", "index": 0, "value": 1}
        ),
        client.post("/v1/feedback", json=VOTE, headers={"Idempotency-Key": "k"}),
        client.get("/v1/users/u"),
        client.get("/v1/users/u/feedback"),
    ]
    assert {(a.status_code, a.json()["code"]) for a in answers} == {(503, "storage_unavailable")}
    assert all("secret" not in a.text and a.headers["retry-after"] for a in answers)
    assert client.get("/readyz").status_code == 503
    event.remove(readers, "before_cursor_execute", gone)
    assert client.get("/readyz").status_code == 200
    assert events_of(client) == 2
