"""Several users in one score request."""

import pytest
from sqlalchemy import event

from penchant.models.ranking.scores import scores
from penchant.service.users.current import USERS_AT_ONCE

BODY = {"text_1": "which?", "text_2": ["short", "a text that is much longer than the other one", "short"]}
VOTE = {
    "type": "preference",
    "user": "ann",
    "prompt": "which?",
    "chosen": BODY["text_2"][1],
    "rejected": "short",
}


def score(client, path="/v1/score", **changes):
    return client.post(path, json=BODY | changes)


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_each_user_gets_the_scores_of_a_separate_request(client, path):
    assert client.post("/v1/feedback", json=VOTE).status_code == 200
    together = score(client, path, users=["ann", "bob"]).json()["data"]
    separate = [entry for user in ("ann", "bob") for entry in score(client, path, user=user).json()["data"]]
    assert [entry["user"] for entry in together] == ["ann"] * 3 + ["bob"] * 3
    assert [entry["index"] for entry in together] == [0, 1, 2] * 2
    for joint, other in zip(together, separate, strict=True):
        assert "user" not in other
        for name in ("score", "std", "probability"):
            assert joint[name] == pytest.approx(other[name], abs=1e-12)
    ann, bob = together[1]["score"] - together[0]["score"], together[4]["score"] - together[3]["score"]
    assert ann > bob  # as she stated
    assert together[0]["score"] == together[2]["score"]  # the same text


def test_a_list_of_one_user_can_be_explained_and_learned_from(client):
    answer = score(client, users=["ann"], explain=True).json()
    assert all("explanation" in entry for entry in answer["data"])
    learned = client.post(
        "/v1/feedback", json={"type": "vote", "rank_id": answer["id"], "index": 0, "value": 1}
    )
    assert learned.json()["users"][0]["user"] == "ann"


def test_a_ranking_for_several_users_belongs_to_none(client):
    rank_id = score(client, users=["ann", "bob"]).json()["id"]
    vote = {"type": "vote", "rank_id": rank_id, "index": 0, "value": 1}
    assert client.post("/v1/feedback", json=vote).status_code == 422
    assert client.post("/v1/feedback", json=vote | {"user": "bob"}).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "pointer"),
    [
        ({"users": []}, 422, "/users"),
        ({"users": ["ok", ""]}, 422, "/users/1"),
        ({"users": ["a", "b"], "explain": True}, 422, "/explain"),
        ({"users": [f"u{n}" for n in range(4)]}, 422, "/users"),
        ({"users": ["a"], "user": "a"}, 400, None),
        ({"users": ["a"], "model": "penchant:b"}, 400, None),
    ],
)
def test_invalid_requests_are_refused(serve, changes, status, pointer):
    answer = score(serve(max_scores=9), **changes)
    assert answer.status_code == status
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"] == pointer
    else:
        assert answer.json()["code"] == "user_conflict"


def test_every_score_counts_as_a_candidate(serve):
    client = serve(tenant_candidates_per_day=6)
    assert score(client, users=["ann", "bob"]).status_code == 200
    assert score(client, user="ann").status_code == 429


def count_statements(client, send):
    """Return the answer, and how many statements about users readers made for it."""
    statements = []

    def note(_connection, _cursor, statement, *_):
        if "FROM users" in statement:
            statements.append(statement)

    readers = client.app.state.runtime.store._readers
    event.listen(readers, "before_cursor_execute", note)
    try:
        return send(), len(statements)
    finally:
        event.remove(readers, "before_cursor_execute", note)


def test_unknown_users_cost_one_query_for_many_and_no_place_in_memory(serve):
    client = serve(max_cached_users=1)
    client.post("/v1/feedback", json=VOTE)
    cache = client.app.state.runtime.models.current.cache
    names = [f"stranger {n}" for n in range(USERS_AT_ONCE * 2 + 1)]
    answer, queries = count_statements(client, lambda: score(client, users=names))
    assert answer.status_code == 200
    assert queries == 3
    assert cache.find(("default", "ann"))[1].feedback_events == 1
    assert len(cache) == 1
    assert len(client.app.state.runtime.models.current.scorer._rankings._recent) == 1


def test_unknown_users_share_one_computation(client, monkeypatch):
    computed = []

    def counted(reward, posteriors, items):
        computed.append(len(posteriors))
        return scores(reward, posteriors, items)

    monkeypatch.setattr("penchant.service.ranking.many_users.scores", counted)
    names = [f"stranger {n}" for n in range(700)]
    data = score(client, users=names).json()["data"]
    assert computed == [1]
    assert len({entry["score"] for entry in data}) == 2  # one for each distinct text
    assert [entry["user"] for entry in data[::3]] == names


@pytest.mark.parametrize("personalization", [0.0, 0.5, 1.0])
def test_known_users_among_many_get_their_own_scores(client, monkeypatch, personalization):
    monkeypatch.setattr("penchant.service.ranking.many_users.USERS_AT_ONCE", 2)
    monkeypatch.setattr("penchant.service.ranking.many_users.SCORES_AT_ONCE", 1)
    assert client.post("/v1/feedback", json=VOTE).status_code == 200
    names = ["x", "ann", "y", "ann", "ann"]
    data = score(client, users=names, personalization=personalization).json()["data"]
    for i, name in enumerate(names):
        alone = score(client, user=name, personalization=personalization).json()["data"]
        for entry, other in zip(data[3 * i : 3 * i + 3], alone, strict=True):
            assert entry["score"] == pytest.approx(other["score"], abs=1e-12)
            assert entry["std"] == pytest.approx(other["std"], abs=1e-12)


def test_users_behind_their_log_are_caught_up(client, store):
    client.post("/v1/feedback", json=VOTE)
    before = score(client, users=["ann", "bob"]).json()["data"]
    store.run("DELETE FROM user_states")
    client.app.state.runtime.models.current.cache.clear()
    assert score(client, users=["ann", "bob"]).json()["data"] == before


def test_the_first_feedback_of_a_user_is_visible_at_once(client):
    for path in (["ann", "bob"], [f"u{n}" for n in range(USERS_AT_ONCE)] + ["ann"]):
        unknown = score(client, users=path).json()["data"]
        assert client.post("/v1/feedback", json=VOTE | {"user": "ann"}).status_code == 200
        known = score(client, users=path).json()["data"]
        at = 3 * path.index("ann")
        assert known[at]["score"] != unknown[at]["score"]
        client.delete("/v1/users/ann")
        assert score(client, users=path).json()["data"] == unknown


def test_versions_on_a_shared_store_are_checked_in_bulk(client, store):
    """Another server's change to one of many users in memory is noticed."""
    for user in ("ann", "bob"):
        client.post("/v1/feedback", json=VOTE | {"user": user})
    names = ["ann", "bob", "cat"]
    assert score(client, users=names).status_code == 200
    expected = (
        (1, 2) if store.is_postgres else (0, 0)
    )  # versions; versions, and the states of those that differ
    assert count_statements(client, lambda: score(client, users=names[:2]))[1] == expected[0]
    store.run("UPDATE users SET version = version + 1 WHERE user_id = 'bob'")
    assert count_statements(client, lambda: score(client, users=names[:2]))[1] == expected[1]
