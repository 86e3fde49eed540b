"""Taking back: afterwards everything is as if the event had never been sent, whatever came before, between and after."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import OperationalError

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.api.answers.feedback import FeedbackResponse
from penchant.service.feedback.recorder import MAX_INLINE_EVENTS
from penchant.service.users.fold import Fold

ASK = {"prompt": "p", "candidates": ["boat sea", "tree house", "many words " * 20], "user": "u"}


def send(client, *events, status=200):
    body = events[0] if len(events) == 1 else {"events": list(events)}
    answer = client.post("/v1/feedback", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def retract(target, **more):
    return {"type": "retract", "user": "u", "target_event_id": target, **more}


def results(client, user="u"):
    return client.post("/v1/best-of-n", json=ASK | {"user": user}).json()["results"]


def history(n=14, user="u"):
    """Events of every kind, with ids e0, e1, …"""
    rng = np.random.default_rng(3)
    words = ["boat", "sea", "tree", "house", "cloud", "river"]
    for i in range(n):
        a, b, c = (f"{' '.join(rng.permutation(words)[: 1 + (i + j) % 5])} {i} {j}" for j in range(3))
        yield {"user": user, "event_id": f"e{i}", "prompt": "p", "source": "tests" if i % 2 else None} | [
            {"type": "vote", "text": a, "value": 1 if i % 3 else -1, "weight": 0.7},
            {"type": "rating", "text": a, "value": i % 5, "scale": [0, 4]},
            {"type": "preference", "chosen": a, "rejected": b, "strength": 0.5},
            {"type": "choice", "candidates": [a, b, c], "index": i % 3},
            {"type": "ranking", "order": [[b], [a, c]]},
            {"type": "edit", "original": a, "edited": b},
            {"type": "edit", "original": a, "edited": a},
        ][i % 7]


def saved(store, user="u"):
    """The user's state as it is stored."""
    return store.run("SELECT state, as_of FROM user_states WHERE user_id = :user", user=user)[0]


@pytest.mark.parametrize("target", range(14))
def test_the_state_is_what_it_would_be_without_the_event(serve, store, fresh, target):
    """Bit for bit: the user's numbers, not only the answers."""
    client = serve()
    send(client, *history())
    before = results(client)
    send(client, retract(f"e{target}"))
    changed = results(client), saved(store)
    others = [event for event in history() if event["event_id"] != f"e{target}"]
    client = serve(**fresh.place)
    send(client, *others)
    assert results(client) == changed[0]
    assert saved(fresh)[0] == changed[1][0]
    assert (changed[0] == before) == (target % 7 == 6)  # the edit that changed nothing


def test_what_comes_after_is_learned_on_top(serve, fresh):
    events = list(history())
    client = serve()
    send(client, *events[:6])
    send(client, retract("e2"))
    send(client, *events[6:10])
    send(client, retract("e8"), retract("e0"))
    send(client, *events[10:])
    after = results(client)
    assert client.get("/v1/users/u").json()["feedback_events"] == 17
    client = serve(**fresh.place)
    send(client, *[event for event in events if event["event_id"] not in ("e0", "e2", "e8")])
    assert results(client) == after


def test_all_taken_back_is_the_population(client):
    send(client, *history())
    send(client, *[retract(f"e{n}") for n in range(14)])
    assert results(client) == results(client, None)
    told = client.post("/v1/rerank", json={"query": "q", "documents": ["a"], "user": "u"}).json()
    assert told["meta"]["personalization"] == {
        "user": "u",
        "state": "population",
        "feedback_events": 28,
        "posterior_version": 28,
    }
    assert client.get("/v1/users/u").json()["state"] == "population"


def test_the_target_may_stand_earlier_in_the_batch(serve, fresh):
    events = list(history(5))
    client = serve()
    body = send(client, *events[:3], retract("e1"), *events[3:])
    assert FeedbackResponse.model_validate(body).accepted == 6
    assert body["users"] == [{"user": "u", "posterior_version": 6, "feedback_events": 6}]
    after = results(client)
    client = serve(**fresh.place)
    send(client, *events[:1], *events[2:])
    assert results(client) == after


def test_the_target_may_not_stand_later(client):
    events = list(history(3))
    body = send(client, events[0], retract("e1"), events[1])
    assert body["accepted"] == 2
    assert [(r["index"], r["problem"]["code"]) for r in body["rejected"]] == [(1, "event_not_found")]
    assert body["rejected"][0]["problem"]["errors"][0]["pointer"] == "/events/1/target_event_id"


def test_an_unknown_target(client):
    send(client, *history(2))
    before = results(client)
    problem = send(client, retract("nothing", event_id="r"), status=404)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("event_not_found", "/target_event_id")
    assert send(client, retract("r", event_id="r"), status=404)["code"] == "event_not_found"  # itself
    assert results(client) == before
    assert client.get("/v1/users/u").json()["feedback_events"] == 2
    # Nothing was logged: the id is free, and the same request can succeed later.
    send(client, next(history(1)) | {"event_id": "nothing"})
    assert send(client, retract("nothing", event_id="r"))["accepted"] == 1


def test_another_user_s_event_is_unknown(client):
    send(client, *history(2))
    send(client, next(history(1, "v")) | {"event_id": "of v"})
    theirs = results(client, "v")
    problem = send(client, retract("of v"), status=404)
    assert problem == send(client, retract("nothing"), status=404) | {
        name: problem[name] for name in ("request_id",)
    }
    assert send(client, retract("e0", user="nobody"), status=404)["code"] == "event_not_found"
    assert results(client, "v") == theirs
    assert client.get("/v1/users/nobody").status_code == 404


def test_a_deleted_user_s_event_is_unknown(client):
    send(client, *history(2))
    client.delete("/v1/users/u")
    assert send(client, retract("e0"), status=404)["code"] == "event_not_found"


def test_a_retraction_can_be_taken_back(client):
    send(client, *history())
    before = results(client)
    send(client, retract("e3", event_id="r"))
    without = results(client)
    assert without != before
    send(client, retract("r", event_id="rr"))
    assert results(client) == before
    send(client, retract("rr"))
    assert results(client) == without


def test_what_is_taken_back_can_be_taken_back_again(client):
    """It changes nothing; and then it takes both retractions' end to bring the event back."""
    send(client, *history())
    before = results(client)
    send(client, retract("e3", event_id="r1"))
    without = results(client)
    body = send(client, retract("e3", event_id="r2"))
    assert (body["accepted"], body["users"][0]["feedback_events"]) == (1, 16)
    assert results(client) == without
    send(client, retract("r1"))
    assert results(client) == without
    send(client, retract("r2"))
    assert results(client) == before


def test_a_retraction_counts_once(serve):
    client = serve()
    send(client, *history(3))
    send(client, retract("e1", event_id="r"))
    after = results(client)
    assert send(client, retract("e1", event_id="r"))["duplicates"] == 1
    assert send(client, retract("e2", event_id="r"), status=422)["code"] == "event_id_conflict"
    client = serve()
    assert send(client, retract("e1", event_id="r"))["duplicates"] == 1
    np.testing.assert_allclose(numbers(client), [list(r.values()) for r in after], atol=1e-6)


def numbers(client):
    return [list(result.values()) for result in results(client)]


def test_a_generated_id_can_be_taken_back(client):
    event = {name: value for name, value in next(history(1)).items() if name != "event_id"}
    send(client, event)
    generated = client.get("/v1/users/u/feedback").json()["data"][0]["event_id"]
    send(client, retract(generated))
    assert results(client) == results(client, None)


def test_the_log_keeps_what_was_taken_back_and_by_what(client):
    send(client, *history(2))
    send(client, retract("e0", event_id="r", source="undo button", metadata={"screen": 1}))
    entries = client.get("/v1/users/u/feedback").json()["data"]
    assert [entry["event_id"] for entry in entries] == ["e0", "e1", "r"]
    kept = {"type": "retract", "target_event_id": "e0", "source": "undo button", "metadata": {"screen": 1}}
    assert entries[-1]["event"] == kept


@pytest.mark.parametrize("texts_encoded", [0, 15])
def test_a_rebuild_skips_what_was_taken_back(logs, serve, fresh, texts_encoded):
    """With another bundle, and with another encoder, the log leads to the same place as the events that count."""
    encoder = HashingEncoder(dim=32) if texts_encoded else None
    extractor = FeatureExtractor(encoder or HashingEncoder())
    other = tiny_bundle(extractor, seed=7)
    client = serve()
    send(client, *history(10))
    send(client, retract("e3", event_id="r"), retract("e5"), retract("r"), retract("e0"))
    logs.clear()
    client = serve(bundle=other, using=encoder)
    finished = next(line for line in logs if line["event"] == "rebuild_finished")
    assert (finished["users"], finished["texts_encoded"]) == (1, texts_encoded)
    after = results(client)
    # What is taken back is not encoded again, and a retraction after the rebuild finds all it needs.
    send(client, retract("e1"))
    later = results(client)
    client = serve(bundle=other, using=encoder, **fresh.place)
    send(client, *[event for event in history(10) if event["event_id"] not in ("e0", "e5")])
    assert results(client) == after != later


def test_a_retraction_in_the_same_commit_as_its_target(client):
    """Different requests that wait together: the log that is replayed is partly in the database, partly not."""
    events = list(history(4))
    send(client, events[0])
    gate, writer = threading.Event(), client.app.state.runtime.writer
    sqlalchemy_event.listen(client.app.state.runtime.store._writer, "begin", lambda _: gate.wait(timeout=30))
    waiting = [events[1], events[2], retract("e1"), events[3], retract("e0")]
    senders = []
    for n, body in enumerate(waiting):
        sender = threading.Thread(target=send, args=(client, body))
        sender.start()
        senders.append(sender)
        while writer._queued_events < n + 1:
            sender.join(timeout=0.001)
    gate.set()
    for sender in senders:
        sender.join()
    after = results(client)
    send(client, *[event | {"user": "v", "event_id": f"v{n}"} for n, event in enumerate(events[2:])])
    assert results(client, "v") == after
    assert client.get("/v1/users/u").json()["feedback_events"] == 6


def test_a_log_that_cannot_be_read_takes_nothing_back(client):
    send(client, *history(4))
    before = results(client)
    engine = client.app.state.runtime.store._writer

    def broken(_connection, _cursor, statement, *_rest):
        if statement.startswith("SELECT judged_items"):
            raise OperationalError(statement, {}, OSError("disk I/O error"))

    sqlalchemy_event.listen(engine, "before_cursor_execute", broken)
    refused = send(client, retract("e1", event_id="r"), status=503)
    assert (refused["code"], results(client)) == ("storage_unavailable", before)
    sqlalchemy_event.remove(engine, "before_cursor_execute", broken)
    assert send(client, retract("e1", event_id="r"))["accepted"] == 1


def test_a_request_that_fails_takes_nothing_back(client, monkeypatch):
    """Whole or not at all, also where the replay is to blame."""
    send(client, *history(4))
    before = results(client), client.get("/v1/users/u").json()
    with monkeypatch.context() as patch:
        patch.setattr(Fold, "extend", lambda *_: {}["unforeseen"])
        assert send(client, retract("e1", event_id="r"), status=500)["code"] == "internal_error"
    assert (results(client), client.get("/v1/users/u").json()) == before
    assert send(client, retract("e1", event_id="r"))["accepted"] == 1


def test_a_long_log_is_replayed_while_others_go_on(serve, fresh):
    """Taking back costs whoever waits for the same commit nothing; what follows is right at once all the same."""
    client = serve()
    events = list(history(MAX_INLINE_EVENTS + 8))
    send(client, *events)
    replayer = client.app.state.runtime.models.current.replayer
    with held_up(replayer):
        send(client, retract("e3"), {"type": "vote", "user": "v", "text": "boat", "value": 1})
        send(client, {"type": "vote", "user": "u", "prompt": "p", "text": "late", "value": 1})
        assert not replayer.idle.is_set()
        at_once = results(client)
        assert client.get("/v1/users/u").json()["feedback_events"] == len(events) + 2
    assert replayer.idle.wait(timeout=30)
    assert results(client) == at_once
    client = serve(**fresh.place)
    send(client, *[event for event in events if event["event_id"] != "e3"])
    send(client, {"type": "vote", "user": "u", "prompt": "p", "text": "late", "value": 1})
    np.testing.assert_allclose(numbers(client), [list(result.values()) for result in at_once], atol=1e-6)


def test_who_was_left_behind_is_saved_soon(client, store):
    events = list(history(MAX_INLINE_EVENTS + 8))
    send(client, *events)
    send(client, retract("e3"))
    assert client.app.state.runtime.models.current.replayer.idle.wait(timeout=30)
    assert store.run("SELECT through_seq FROM user_states") == [(len(events) + 1,)]


@contextmanager
def held_up(replayer):
    """What is left behind stays so, except for those who ask."""
    gate, bring = threading.Event(), replayer._catch_up_user

    def wait(key, found=None):
        gate.wait(timeout=30)
        bring(key, found)

    replayer._catch_up_user = wait
    yield
    replayer._catch_up_user = bring
    gate.set()
