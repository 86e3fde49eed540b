"""Feedback: what it changes, what is a duplicate, what is refused, and that it is never encoded twice."""

import pytest

from penchant.service.api.answers.feedback import FeedbackResponse

LONG = "a long answer that goes on and on, and then on, with many words, until everybody has left the room"
SHORT = "a short answer"
DOCUMENTS = [SHORT, LONG, "something in between, of a middling length"]


def send(client, *events, status=200, **arguments):
    body = events[0] if len(events) == 1 else {"events": list(events)}
    answer = client.post("/v1/feedback", json=body, **arguments)
    assert answer.status_code == status, answer.text
    return answer.json()


def first(client, user, documents=(SHORT, LONG)):
    body = {"query": "q", "documents": list(documents), "user": user}
    return client.post("/v1/rerank", json=body).json()["results"][0]["index"]


def preference(user, chosen, rejected, **more):
    return {"type": "preference", "user": user, "chosen": chosen, "rejected": rejected, **more}


def test_opposite_users_get_opposite_orders(client):
    words = ["alpha", "beta", "gamma"]
    long = [f"{word} " * 60 for word in words]
    for i, word in enumerate(words):
        send(client, preference("tall", long[i], word))
        send(client, preference("small", word, long[i]))
    assert first(client, "tall") == 1
    assert first(client, "small") == 0


def test_the_answer(client):
    body = send(client, preference("u", "a", "b"), {"type": "vote", "user": "v", "text": "a", "value": -1})
    assert FeedbackResponse.model_validate(body)
    assert (body["accepted"], body["duplicates"], body["rejected"]) == (2, 0, [])
    assert body["users"] == [
        {"user": "u", "posterior_version": 1, "feedback_events": 1},
        {"user": "v", "posterior_version": 1, "feedback_events": 1},
    ]


def test_the_next_ranking_reflects_it(client):
    for n in range(1, 6):
        send(client, {"type": "vote", "user": "u", "text": f"text {n}", "value": 1})
        told = client.post("/v1/rerank", json={"query": "q", "documents": ["a"], "user": "u"}).json()
        assert told["meta"]["personalization"] == {
            "user": "u",
            "state": "personal",
            "feedback_events": n,
            "posterior_version": n,
        }


@pytest.mark.parametrize("value", [1, -1])
def test_a_vote_moves_what_is_acceptable(client, value):
    ask = {"candidates": [SHORT], "user": "u"}
    before = client.post("/v1/best-of-n", json=ask).json()["best"]["probability_acceptable"]
    send(client, {"type": "vote", "user": "u", "text": SHORT, "value": value})
    after = client.post("/v1/best-of-n", json=ask).json()["best"]["probability_acceptable"]
    assert (after - before) * value > 0


@pytest.mark.parametrize(("value", "scale"), [(5, [1, 5]), (1.0, [0, 1]), (100, [-100, 100])])
def test_ratings_count_within_their_scale(client, value, scale):
    top = {"type": "rating", "user": "u", "text": SHORT, "value": value, "scale": scale}
    send(client, top)
    send(client, top | {"user": "w", "scale": [-1, 1], "value": 1})
    assert utility(client, "u") == utility(client, "w") > utility(client, None)


def utility(client, user):
    return client.post("/score", json={"text_1": "", "text_2": SHORT, "user": user}).json()["data"][0][
        "score"
    ]


def test_a_lighter_event_moves_less(client):
    send(client, preference("full", LONG, SHORT))
    send(client, preference("half", LONG, SHORT, weight=0.5))
    send(client, preference("strength", LONG, SHORT, strength=0.5))
    scores = [utility(client, user) for user in (None, "half", "full")]
    assert scores == sorted(scores, reverse=True)
    assert utility(client, "strength") == utility(client, "half")


def test_feedback_on_a_ranking_encodes_nothing(client, encoder):
    ranking = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "user": "u"}).json()
    assert sorted(encoder.texts) == sorted(DOCUMENTS)
    encoder.calls.clear()
    send(client, {"type": "vote", "rank_id": ranking["id"], "index": 1, "value": 1})
    send(
        client,
        {"type": "rating", "rank_id": ranking["id"], "index": 0, "value": 1, "scale": [0, 9], "user": "u"},
    )
    send(client, {"type": "vote", "user": "u", "prompt": "q", "text": DOCUMENTS[2], "value": 1})
    send(client, preference("u", DOCUMENTS[0], DOCUMENTS[1]))
    client.post("/v1/best-of-n", json={"prompt": "q", "candidates": DOCUMENTS, "user": "u"})
    assert encoder.calls == []


def test_judged_texts_are_not_encoded_again_after_a_restart(serve, encoder):
    send(serve(), preference("u", LONG, SHORT))
    client = serve()
    client.post("/v1/rerank", json={"query": "q", "documents": [SHORT, LONG], "user": "u"})
    send(client, preference("w", LONG, SHORT))
    assert encoder.calls == []


@pytest.mark.parametrize("path", ["/v1/rerank", "/score", "/v1/best-of-n"])
def test_every_ranking_has_an_id_that_feedback_can_name(client, path):
    body = {
        "/v1/rerank": {"query": "q", "documents": DOCUMENTS},
        "/score": {"text_1": "q", "text_2": DOCUMENTS},
        "/v1/best-of-n": {"prompt": "q", "candidates": DOCUMENTS},
    }[path]
    rank_id = client.post(path, json=body | {"user": "u"}).json()["id"]
    send(client, {"type": "vote", "rank_id": rank_id, "index": 2, "value": 1})
    event = client.get("/v1/users/u/feedback").json()["data"][0]["event"]
    assert (event["prompt"], event["text"], event["index"]) == ("q", DOCUMENTS[2], 2)


def test_tei_names_its_ranking_in_a_header(client):
    answer = client.post("/rerank", json={"query": "q", "texts": DOCUMENTS, "user": "u"})
    send(client, {"type": "vote", "rank_id": answer.headers["x-rank-id"], "index": 0, "value": 1})


def test_a_ranking_by_index_says_the_same_as_its_text(client):
    rank_id = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS}).json()["id"]
    send(client, {"type": "vote", "user": "index", "rank_id": rank_id, "index": 1, "value": 1})
    send(client, {"type": "vote", "user": "text", "prompt": "q", "text": DOCUMENTS[1], "value": 1})
    assert utility(client, "index") == utility(client, "text")


def test_a_ranking_of_pairs_remembers_each_prompt(client):
    asked = {"text_1": ["p", "q"], "text_2": ["a", "b"], "user": "u"}
    rank_id = client.post("/score", json=asked).json()["id"]
    send(client, {"type": "vote", "rank_id": rank_id, "index": 1, "value": 1})
    assert client.get("/v1/users/u/feedback").json()["data"][0]["event"]["prompt"] == "q"


def test_rank_id_outlives_a_restart(serve):
    rank_id = (
        serve().post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "user": "u"}).json()["id"]
    )
    body = send(serve(), {"type": "vote", "rank_id": rank_id, "index": 1, "value": 1})
    assert body["users"][0]["user"] == "u"


@pytest.mark.parametrize("restart", [False, True])
def test_rank_id_ends_after_a_day(serve, clock, restart):
    client = serve()
    rank_id = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "user": "u"}).json()["id"]
    vote = {"type": "vote", "rank_id": rank_id, "index": 1, "value": 1}
    clock.now += 24 * 3600 - 1
    send(client, vote)
    clock.now += 2
    if restart:
        client = serve()
    assert send(client, vote, status=404)["code"] == "rank_not_found"


def test_an_unknown_rank_id(client):
    vote = {"type": "vote", "user": "u", "rank_id": "rank_nothing", "index": 0, "value": 1}
    problem = send(client, vote, status=404)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("rank_not_found", "/rank_id")
    body = send(client, vote, {"type": "vote", "user": "u", "text": "t", "value": 1})
    assert body["accepted"] == 1
    assert [(r["index"], r["problem"]["code"]) for r in body["rejected"]] == [(0, "rank_not_found")]
    # Texts may be sent instead; the id is only kept.
    assert send(client, {"type": "vote", "user": "u", "rank_id": "rank_nothing", "text": "t", "value": 1})[
        "accepted"
    ]


def test_what_a_ranking_cannot_tell(client):
    rank_id = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS}).json()["id"]
    vote = {"type": "vote", "rank_id": rank_id, "index": 1, "value": 1}
    assert send(client, vote, status=422)["errors"][0]["pointer"] == "/user"
    assert send(client, vote | {"user": "u", "index": 3}, status=422)["errors"][0]["pointer"] == "/index"
    owned = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "user": "u"}).json()["id"]
    assert send(client, vote | {"user": "w", "rank_id": owned}, status=400)["code"] == "user_conflict"


def test_the_user_may_come_by_header(client):
    vote = {"type": "vote", "text": "t", "value": 1}
    assert send(client, vote, headers={"X-User-Id": "a%2Fb"})["users"][0]["user"] == "a/b"
    conflict = send(client, vote | {"user": "w"}, headers={"X-User-Id": "a%2Fb"}, status=400)
    assert conflict["code"] == "user_conflict"


def test_a_bad_event_of_a_batch_is_rejected_alone(client):
    good = {"type": "vote", "user": "u", "text": "t", "value": 1}
    body = send(client, good, good | {"value": 3}, {"type": "edit"}, "what", good | {"text": "other"})
    FeedbackResponse.model_validate(body)
    assert body["accepted"] == 2
    assert [(r["index"], r["problem"]["code"]) for r in body["rejected"]] == [
        (1, "validation_failed"),
        (2, "validation_failed"),
        (3, "validation_failed"),
    ]
    assert body["rejected"][0]["problem"]["errors"][0]["pointer"] == "/events/1/value"
    assert body["rejected"][0]["problem"]["status"] == 422


def test_a_batch_of_nothing_good(client):
    body = send(client, {"type": "vote"}, {"type": "vote"})
    assert (body["accepted"], len(body["rejected"]), body["users"]) == (0, 2, [])


def test_an_event_id_counts_once(client):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1, "event_id": "e1"}
    assert send(client, vote)["accepted"] == 1
    again = send(client, vote | {"prompt": None})
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert again["users"] == [{"user": "u", "posterior_version": 1, "feedback_events": 1}]


def test_an_event_id_counts_once_after_a_restart(serve):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1, "event_id": "e1"}
    send(serve(), vote)
    assert send(serve(), vote)["duplicates"] == 1


def test_an_event_id_counts_once_in_a_batch(client):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1, "event_id": "e1"}
    body = send(client, vote, vote, vote | {"value": -1})
    assert (body["accepted"], body["duplicates"]) == (1, 1)
    assert [(r["index"], r["problem"]["code"]) for r in body["rejected"]] == [(2, "event_id_conflict")]


@pytest.mark.parametrize(
    "change", [{"value": -1}, {"text": "other"}, {"user": "w"}, {"weight": 0.5}, {"source": "s"}]
)
def test_an_event_id_with_other_content_is_a_conflict(client, change):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1, "event_id": "e1"}
    send(client, vote)
    problem = send(client, vote | change, status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("event_id_conflict", "/event_id")
    assert client.get("/v1/users/u").json()["feedback_events"] == 1


def test_a_retry_is_a_duplicate_even_when_its_ranking_is_gone(client, clock):
    rank_id = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "user": "u"}).json()["id"]
    vote = {"type": "vote", "rank_id": rank_id, "index": 1, "value": 1, "event_id": "e1"}
    send(client, vote)
    clock.now += 25 * 3600
    assert send(client, vote)["duplicates"] == 1
    assert send(client, vote | {"value": -1}, status=422)["code"] == "event_id_conflict"
    assert send(client, vote | {"event_id": "e2"}, status=404)["code"] == "rank_not_found"


def test_everything_an_event_may_hold_is_logged(client):
    vote = {
        "type": "vote",
        "user": "u",
        "text": "t",
        "prompt": "p",
        "value": 1,
        "event_id": "e1",
        "timestamp": "2026-03-01T12:00:00+02:00",
        "source": "thumbs",
        "weight": 0.5,
        "metadata": {"screen": {"n": 3}},
    }
    send(client, vote)
    logged = client.get("/v1/users/u/feedback").json()["data"][0]
    assert logged["event_id"] == "e1"
    kept = {name: vote[name] for name in ("type", "text", "prompt", "value", "source", "weight", "metadata")}
    assert {name: logged["event"][name] for name in kept} == kept
    assert logged["event"]["timestamp"].startswith("2026-03-01T")


def test_limits_can_be_set(serve):
    client = serve(max_events=2)
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    assert send(client, vote, vote)["accepted"] == 2
    assert send(client, vote, vote, vote, status=422)["errors"][0]["pointer"] == "/events"


KEY = {"Idempotency-Key": "key-1"}


def test_an_idempotency_key_counts_once(serve):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    client = serve()
    answer = send(client, vote, headers=KEY)
    assert send(client, vote, headers=KEY) == answer
    client = serve()
    assert send(client, vote, headers=KEY) == answer
    assert client.get("/v1/users/u").json()["feedback_events"] == 1


def test_an_idempotency_key_belongs_to_one_request(client):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    send(client, vote, headers=KEY)
    assert send(client, vote | {"value": -1}, headers=KEY, status=422)["code"] == "idempotency_key_reused"
    assert send(client, vote | {"user": None}, headers=KEY | {"X-User-Id": "u"}, status=422)
    assert send(client, vote, headers={"Idempotency-Key": "key-2"})["accepted"] == 1


def test_an_idempotency_key_ends_after_a_day(serve, clock):
    client = serve(expiry_grace_hours=48.0)
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    send(client, vote, headers=KEY)
    clock.now += 24 * 3600 + 1
    assert send(client, vote, headers=KEY)["users"][0]["feedback_events"] == 2


def test_an_idempotency_key_does_not_end_by_a_jump_of_the_clock(client, clock):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    answer = send(client, vote, headers=KEY)
    clock.now += 400 * 24 * 3600
    assert send(client, vote, headers=KEY) == answer


def test_a_refused_request_leaves_its_key_free(client):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    send(client, vote | {"value": 3}, headers=KEY, status=422)
    assert send(client, vote, headers=KEY)["accepted"] == 1


@pytest.mark.parametrize("key", ["k" * 256])
def test_keys_that_are_none(client, key):
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    assert send(client, vote, headers={"Idempotency-Key": key}, status=422)["code"] == "validation_failed"


def test_texts_may_hold_nul_on_every_store(client):
    user = "nul"
    for text in ("a\x00b", "\x00"):
        body = {"query": text, "documents": [text, "a"], "user": user, "model": None}
        assert client.post("/v1/rerank", json=body).status_code == 200
        event = {
            "type": "vote",
            "value": 1,
            "user": user,
            "text": text,
            "prompt": text,
            "metadata": {"k\x00": text},
        }
        assert client.post("/v1/feedback", json=event).status_code == 200
    logged = client.get(f"/v1/users/{user}/feedback").json()["data"]
    assert [one["event"]["text"] for one in logged] == ["a\x00b", "\x00"]


def test_a_rating_on_the_widest_scale_is_learned(client):
    """Twice the distance from its end is more than a number holds."""
    widest = {"type": "rating", "user": "w", "text": "t", "value": 8e307, "scale": [-8e307, 8e307]}
    answer = client.post("/v1/feedback", json=widest)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert client.get("/v1/users/w").json()["state"] == "personal"
