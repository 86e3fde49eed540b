"""What is known of a user, and forgetting it."""

from urllib.parse import quote

import pytest

from penchant.service.api.answers.users import FeedbackPage, UserResponse

ODD_IDS = ["u42", "a/b", "50%", "a%2Fb", "ünïcode", "日本 語", "a?b#c", "feedback", "a/feedback", "a:b"]


def vote(client, user, text, value=1, **more):
    event = {"type": "vote", "user": user, "text": text, "value": value, **more}
    answer = client.post("/v1/feedback", json=event)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("user", ODD_IDS)
def test_user_routes_take_every_id(client, user):
    path = f"/v1/users/{quote(user, safe='')}"
    vote(client, user, "t")
    assert client.get(path).json()["user"] == user
    assert len(client.get(f"{path}/feedback").json()["data"]) == 1
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_an_unknown_user(client):
    for path in ("/v1/users/nobody", "/v1/users/nobody/feedback"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "user_not_found")
    assert client.delete("/v1/users/nobody").status_code == 204
    assert client.delete("/v1/users/nobody").content == b""
    # Being ranked for makes nobody known.
    assert (
        client.post("/v1/rerank", json={"query": "q", "documents": ["a"], "user": "nobody"}).status_code
        == 200
    )
    assert client.get("/v1/users/nobody").status_code == 404


def test_a_known_user(client):
    seen = []
    for n in range(3):
        vote(client, "u", f"text number {n}")
        body = UserResponse.model_validate(client.get("/v1/users/u").json())
        assert (body.feedback_events, body.posterior_version, body.state) == (n + 1, n + 1, "personal")
        seen.append(body.uncertainty.share_of_prior_std)
    assert body.updated_at == "2027-01-15T08:00:00Z"
    assert body.archetype_weights == [1.0]
    assert 0 < seen[2] < seen[1] < seen[0] < 1


def test_the_log_comes_in_pages(client):
    for n in range(5):
        vote(client, "u", f"text {n}", event_id=f"e{n}")
    ids, cursor = [], None
    for size in (2, 2, 1):
        page = client.get(
            "/v1/users/u/feedback", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        )
        body = FeedbackPage.model_validate(page.json())
        assert len(body.data) == size
        ids += [event.event_id for event in body.data]
        cursor = body.next_cursor
        assert body.has_more == (cursor is not None)
    assert ids == ["e0", "e1", "e2", "e3", "e4"]
    assert cursor is None


def rows(store, table):
    return store.run(f"SELECT * FROM {table}")


TABLES = ["feedback_events", "judged_items", "features", "users", "user_states", "rankings", "idempotency"]


def test_nothing_of_a_deleted_user_is_left(serve, store):
    client = serve()
    asked = {"query": "q", "documents": ["seen", "judged by u"], "user": "gone user"}
    rank_id = client.post("/v1/rerank", json=asked).json()["id"]
    event = {"type": "vote", "rank_id": rank_id, "index": 1, "value": 1}
    client.post("/v1/feedback", json=event, headers={"Idempotency-Key": "k"})
    assert client.delete("/v1/users/gone%20user").status_code == 204
    assert client.post("/v1/feedback", json=event).json()["code"] == "rank_not_found"
    serve()
    assert {table: rows(store, table) for table in TABLES} == {table: [] for table in TABLES}


def test_what_others_need_stays(serve, store, encoder):
    client = serve()
    vote(client, "gone", "of both")
    vote(client, "gone", "of one")
    vote(client, "stays", "of both")
    client.delete("/v1/users/gone")
    client = serve()
    assert client.get("/v1/users/stays").json()["feedback_events"] == 1
    client.post("/v1/rerank", json={"query": "q", "documents": ["of both", "of one"]})
    assert encoder.texts == ["of one"]
    assert [len(rows(store, table)) for table in TABLES[:5]] == [1, 1, 1, 1, 1]


def test_a_deleted_user_starts_afresh(client, encoder):
    ask = {"text_1": "q", "text_2": ["boats"], "user": "u"}
    before = client.post("/score", json=ask).json()["data"]
    vote(client, "u", "boats", event_id="e1")
    assert client.post("/score", json=ask).json()["data"] != before
    client.delete("/v1/users/u")
    assert client.post("/score", json=ask).json()["data"] == before
    assert encoder.texts == ["boats", "boats"]  # its features were forgotten too
    vote(client, "u", "boats", event_id="e1")  # and so was its event id
    assert client.get("/v1/users/u").json()["feedback_events"] == 1


def test_state_survives_a_restart(serve):
    client = serve()
    for n in range(3):
        vote(client, "u", f"text {n}", value=1 if n else -1)
    ask = {"prompt": "q", "candidates": ["text 1", "something else"], "user": "u"}
    before = client.post("/v1/best-of-n", json=ask).json()["results"], client.get("/v1/users/u").json()
    client = serve()
    assert (
        client.post("/v1/best-of-n", json=ask).json()["results"],
        client.get("/v1/users/u").json(),
    ) == before
