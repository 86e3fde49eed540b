"""Which user, which tenant."""

from urllib.parse import quote

import pytest
from pydantic import SecretStr

ODD_IDS = ["u42", "a/b", "50%", "a%2Fb", "ünïcode", "日本 語", "..", "a?b#c", "x" * 128, "a:b", "+ &"]
BODY = {"query": "q", "documents": ["a", "b"]}


@pytest.fixture(scope="module")
def client(serve_module):
    return serve_module()


def who(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["meta"]["personalization"]["user"]


@pytest.mark.parametrize("user", ODD_IDS)
def test_every_channel_carries_every_id(client, user):
    quoted = quote(user, safe="") if user != ".." else "%2E%2E"
    assert who(client.post("/v1/rerank", json=BODY | {"user": user})) == user
    assert who(client.post("/v1/rerank", json=BODY, headers={"X-User-Id": quoted})) == user
    assert who(client.post("/v1/rerank", json=BODY | {"model": f"penchant:{user}"})) == user
    if user != "..":  # a client resolves dots before it sends them
        assert who(client.post(f"/users/{quoted}/v1/rerank", json=BODY)) == user


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_the_path_prefix_stands_before_every_rerank_route(client, path):
    assert who(client.post(f"/users/a%2Fb{path}", json=BODY)) == "a/b"


def test_the_path_prefix_stands_before_score_and_best_of_n(client):
    client.post("/v1/feedback", json={"type": "vote", "user": "a/b", "text": "boats at sea", "value": 1})
    for path, body in (
        ("/score", {"text_1": "q", "text_2": ["boats"]}),
        ("/v1/score", {"text_1": "q", "text_2": ["boats"]}),
        ("/v1/best-of-n", {"prompt": "q", "candidates": ["boats", "cars"]}),
    ):
        in_path = client.post(f"/users/a%2Fb{path}", json=body).json()
        in_body = client.post(path, json=body | {"user": "a/b"}).json()
        nobody = client.post(path, json=body).json()
        field = "data" if "data" in in_path else "results"
        assert in_path[field] == in_body[field] != nobody[field]


@pytest.mark.parametrize(
    "path", ["/users/u1/v1/feedback", "/users/u1/healthz", "/users/u1", "/users//v1/nothing"]
)
def test_other_routes_have_no_prefix(client, path):
    assert client.post(path, json={}).status_code == 404


def test_a_client_may_send_bare_utf8_in_the_header(client):
    headers = [(b"X-User-Id", "ünï".encode())]
    assert who(client.post("/v1/rerank", json=BODY, headers=headers)) == "ünï"


def test_nobody_is_named(client):
    assert who(client.post("/v1/rerank", json=BODY)) is None
    assert who(client.post("/v1/rerank", json=BODY | {"user": None}, headers={"X-User-Id": ""})) is None


def test_channels_that_agree(client):
    answer = client.post(
        "/users/u1/v1/rerank", json=BODY | {"user": "u1", "model": "penchant:u1"}, headers={"X-User-Id": "u1"}
    )
    assert who(answer) == "u1"


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/users/u1/v1/rerank", {"user": "u2"}, {}),
        ("/users/u1/v1/rerank", {}, {"X-User-Id": "u2"}),
        ("/v1/rerank", {"user": "u1"}, {"X-User-Id": "u2"}),
        ("/v1/rerank", {"user": "u1", "model": "penchant:u2"}, {}),
        ("/v1/rerank", {"model": "penchant:u2"}, {"X-User-Id": "u1"}),
    ],
)
def test_channels_that_disagree(client, path, body, headers):
    answer = client.post(path, json=BODY | body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "user_conflict")


@pytest.mark.parametrize("user", ["", "x" * 129, "a\x00b", "line\nbreak", "\x7f"])
def test_ids_that_are_none(client, user):
    answers = [client.post("/v1/rerank", json=BODY | {"user": user})]
    if user:
        answers.append(client.get(f"/v1/users/{quote(user, safe='')}"))
        answers.append(client.post(f"/users/{quote(user, safe='')}/rerank", json=BODY))
    answers.append(client.post("/v1/rerank", json=BODY | {"model": f"penchant:{user}"}))
    assert {(a.status_code, a.json()["code"]) for a in answers} == {(422, "validation_failed")}
    assert answers[0].json()["errors"][0]["pointer"] == "/user"


def test_a_path_that_is_not_utf8(client):
    answer = client.get("/v1/users/%FF")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_encoding")


KEYS = {"acme": "acme-key", "umbrella": "umbrella-key"}


@pytest.fixture(scope="module")
def locked(serve_module):
    return serve_module(api_keys={tenant: SecretStr(key) for tenant, key in KEYS.items()})


def bearer(tenant):
    return {"Authorization": f"Bearer {KEYS[tenant]}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic acme-key"},
        {"X-API-Key": "wrong"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/rerank"),
        ("POST", "/rerank"),
        ("POST", "/score"),
        ("POST", "/v1/best-of-n"),
        ("POST", "/v1/feedback"),
        ("GET", "/v1/users/u"),
        ("GET", "/v1/users/u/feedback"),
        ("DELETE", "/v1/users/u"),
        ("GET", "/v1/models"),
    ],
)
def test_strangers_are_refused(locked, method, path, headers):
    answer = locked.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_either_header_opens(locked):
    assert locked.get("/v1/models", headers=bearer("acme")).status_code == 200
    assert locked.get("/v1/models", headers={"Authorization": "bearer acme-key"}).status_code == 200
    assert locked.get("/v1/models", headers={"X-API-Key": "umbrella-key"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/metrics", "/openapi.json"])
def test_operations_need_no_key(locked, path):
    assert locked.get(path).status_code == 200


def test_tenants_see_nothing_of_each_other(locked):
    ranking = locked.post("/v1/rerank", json=BODY | {"user": "u"}, headers=bearer("acme")).json()
    vote = {"type": "vote", "user": "u", "event_id": "e1", "text": "boats", "value": 1}
    assert locked.post("/v1/feedback", json=vote, headers=bearer("acme")).json()["accepted"] == 1
    other = bearer("umbrella")
    assert locked.get("/v1/users/u", headers=other).status_code == 404
    assert locked.get("/v1/users/u/feedback", headers=other).status_code == 404
    stolen = {"type": "vote", "user": "u", "rank_id": ranking["id"], "index": 0, "value": 1}
    assert locked.post("/v1/feedback", json=stolen, headers=other).json()["code"] == "rank_not_found"
    assert locked.delete("/v1/users/u", headers=other).status_code == 204
    assert locked.get("/v1/users/u", headers=bearer("acme")).json()["feedback_events"] == 1
    # The same event id is another event there.
    assert locked.post("/v1/feedback", json=vote | {"value": -1}, headers=other).json()["accepted"] == 1


def test_tenants_do_not_share_features(serve, encoder):
    locked = serve(api_keys={tenant: SecretStr(key) for tenant, key in KEYS.items()})
    for tenant in ("acme", "umbrella", "acme"):
        locked.post(
            "/v1/rerank", json={"query": "q", "documents": ["only once each"]}, headers=bearer(tenant)
        )
    assert encoder.texts == ["only once each"] * 2
