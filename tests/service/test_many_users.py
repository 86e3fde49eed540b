"""Several users in one score request."""

import pytest

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
