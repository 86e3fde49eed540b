"""Tenants: what one of them does, another neither sees nor changes. Every operation of the document is tried.

A server holds data of `acme`. `umbrella` sends it everything it could know of acme's: users, event ids, ranking ids,
idempotency keys. It gets, byte for byte, the answers of a server on which acme never was; and acme's answers stay, byte
for byte, what they were.
"""

import re
from urllib.parse import quote

import pytest
from pydantic import SecretStr

KEYS = {tenant: SecretStr(f"{tenant}-key") for tenant in ("acme", "umbrella")}
ANA, BEN = "ana@acme", "ben@acme"
CANDIDATES = ["boats at sea", "cars on land", "the quick brown fox"]
NEW_ID = re.compile(rb"\b([a-z]+)_[A-Za-z0-9_-]{16,}")  # made by the server, at random
VOTE = {"type": "vote", "user": ANA, "event_id": "acme-e1", "text": CANDIDATES[0], "value": 1}
RANKING_BODIES = {
    "/v1/rerank": {"query": "q", "documents": CANDIDATES, "explain": True},
    "/v2/rerank": {"query": "q", "documents": CANDIDATES, "explain": True},
    "/rerank": {"query": "q", "texts": CANDIDATES, "raw_scores": True, "explain": True},
    "/score": {"text_1": "q", "text_2": CANDIDATES, "explain": True},
    "/v1/score": {"queries": "q", "documents": CANDIDATES, "explain": True},
    "/v1/best-of-n": {"prompt": "q", "candidates": CANDIDATES, "explain": True},
}


def feedback_bodies(rank_id):
    """Every way to name something of acme's in feedback."""
    preference = {"type": "preference", "user": ANA, "chosen": CANDIDATES[1], "rejected": CANDIDATES[0]}
    return [
        VOTE,  # acme's event, to the letter
        VOTE | {"value": -1},  # its id with other content
        {"type": "retract", "user": ANA, "event_id": "u-r1", "target_event_id": "acme-e2"},
        {"type": "retract", "user": "mallory", "event_id": "u-r2", "target_event_id": "acme-e2"},
        {"type": "choice", "user": ANA, "event_id": "u-c1", "rank_id": rank_id, "index": 1},
        {"type": "vote", "event_id": "u-c2", "rank_id": rank_id, "index": 0, "value": -1},
        preference | {"event_id": "u-p1", "source": "editor"},
        {"events": [preference | {"event_id": "acme-e2"}, preference | {"event_id": "u-p2", "user": BEN}]},
    ]


class Tenant:
    """One tenant's way to a server."""

    def __init__(self, client, name):
        self.client = client
        self.headers = {"Authorization": f"Bearer {name}-key", "X-Request-Id": "r"}

    def send(self, method, path, body=None, **headers):
        """What comes back and can be seen: status, telling headers, body; without what is made at random."""
        answer = self.client.request(method, path, json=body, headers=self.headers | headers)
        assert answer.status_code < 500, (method, path, answer.text)
        told = [answer.headers.get(name) for name in ("content-type", "retry-after", "ratelimit", "allow")]
        return answer.status_code, told, NEW_ID.sub(rb"\1_new", answer.content)


def settle_in(client):
    """Gives acme two users; returns the id of a ranking that one of them was shown."""
    acme = {"Authorization": "Bearer acme-key"}
    shown = client.post("/v1/rerank", json=RANKING_BODIES["/v1/rerank"] | {"user": ANA}, headers=acme).json()
    events = [
        VOTE,
        {"type": "vote", "user": ANA, "event_id": "acme-e2", "text": CANDIDATES[1], "value": -1},
        {"type": "choice", "user": ANA, "event_id": "acme-e3", "rank_id": shown["id"], "index": 0},
        {"type": "preference", "user": BEN, "chosen": CANDIDATES[2], "rejected": CANDIDATES[0]},
    ]
    once = acme | {"Idempotency-Key": "acme-idempotent"}
    answer = client.post("/v1/feedback", json={"events": events}, headers=once)
    assert answer.json()["accepted"] == len(events)
    return shown["id"]


def operations(document):
    return [(method.upper(), path) for path, item in document["paths"].items() for method in item]


def attempts(document, rank_id):
    """What a stranger sends: every operation, with every name of acme's in every place for it.

    Operations that remove or join come last, so that the others find what is there.
    """
    found = []
    for method, path in operations(document):
        for user in (ANA, BEN, "mallory") if "{user}" in path else (ANA,):
            filled = path.replace("{user}", quote(user, safe=""))
            for body, headers in bodies(method, path, user, rank_id):
                found.append((method, filled, body, headers))
    last = ("DELETE", "/merge")
    return sorted(found, key=lambda one: one[0] == last[0] or one[1].endswith(last[1]))


def bodies(method, path, user, rank_id):
    short = path.removeprefix("/users/{user}")
    if method != "POST":
        queries = [{}, {"X-User-Id": quote(user)}]
        return [(None, headers) for headers in queries]
    if short in RANKING_BODIES:
        body = RANKING_BODIES[short]
        if short != path:  # the path names the user
            return [(body, {})]
        named = [(body, {}), (body | {"user": user}, {}), (body, {"X-User-Id": quote(user)})]
        return [*named, (body | {"model": f"penchant:{user}"}, {})]
    if path == "/v1/feedback":
        sent = feedback_bodies(rank_id)
        keyed = [(body, {"Idempotency-Key": "acme-idempotent"}) for body in sent]
        return [(body, {}) for body in sent] + keyed
    if path == "/v1/users/{user}/merge":
        return [({"from": other}, {}) for other in (ANA, BEN, "mallory")]
    if path == "/v1/users/{user}/onboarding":
        return [({}, {}), ({"limit": 3}, {})]
    return pytest.fail(f"{method} {path}: say here what a stranger would send")


def reads(client, document):
    """All that acme can read of its own: each GET operation, for each of its users."""
    acme, seen = Tenant(client, "acme"), {}
    for method, path in operations(document):
        for user in (ANA, BEN) if method == "GET" else ():
            filled = path.replace("{user}", quote(user, safe=""))
            seen[filled] = acme.send(method, filled)
    return seen


def rankings(client):
    """How acme's users see the candidates, and why."""
    acme = Tenant(client, "acme")
    return {
        (user, path): acme.send("POST", path, body | {"user": user})
        for user in (ANA, BEN)
        for path, body in RANKING_BODIES.items()
    }


def test_a_stranger_gets_changes_and_learns_nothing(serve, fresh):
    client = serve(api_keys=KEYS, ranking_write_delay_seconds=0.0)
    document = client.get("/openapi.json").json()
    rank_id = settle_in(client)
    tried = attempts(document, rank_id)
    assert {method for method, *_ in tried} >= {"GET", "POST", "DELETE"}
    before = rankings(client)
    Tenant(client, "acme").send("DELETE", "/v1/users/nobody")  # the writer's queue is empty when it answers
    before |= reads(client, document)
    assert before["/v1/users/ana%40acme"][0] == 200
    answers = [Tenant(client, "umbrella").send(*one[:3], **one[3]) for one in tried]
    client.app.state.runtime.feed.poll()
    after = reads(client, document) | rankings(client)  # these leave traces in what is read
    assert {key: (value, after[key]) for key, value in before.items() if after[key] != value} == {}
    assert b"acme-e" not in client.get("/metrics").content
    assert not re.search(rb"acme|umbrella", client.get("/metrics").content)

    elsewhere = serve(**fresh.place, api_keys=KEYS)  # acme never was here
    for sent, answer in zip(tried, answers, strict=True):
        assert answer == Tenant(elsewhere, "umbrella").send(*sent[:3], **sent[3]), sent


def test_what_acme_did_can_be_seen_by_acme(serve):
    """The control: the same requests by acme itself tell of its data, so the test above can fail."""
    client = serve(api_keys=KEYS)
    rank_id = settle_in(client)
    acme, umbrella = Tenant(client, "acme"), Tenant(client, "umbrella")
    known, _, retraction, _, choice, *_ = feedback_bodies(rank_id)
    for body in (known, retraction, choice):
        assert acme.send("POST", "/v1/feedback", body) != umbrella.send("POST", "/v1/feedback", body), body
    again = acme.send("POST", "/v1/feedback", VOTE, **{"Idempotency-Key": "acme-idempotent"})
    assert b"idempotency_key_reused" in again[2]


def test_deleting_somebody_elses_namesake_leaves_texts_that_both_judged(serve, encoder):
    client = serve(api_keys=KEYS)
    acme, umbrella = Tenant(client, "acme"), Tenant(client, "umbrella")
    for tenant in (acme, umbrella):
        tenant.send("POST", "/v1/feedback", VOTE)
    reasons = acme.send("GET", "/v1/users/ana%40acme")
    assert umbrella.send("DELETE", "/v1/users/ana%40acme")[0] == 204
    assert acme.send("GET", "/v1/users/ana%40acme") == reasons
    encoded = len(encoder.texts)
    acme.send("POST", "/v1/score", RANKING_BODIES["/v1/score"] | {"documents": CANDIDATES[:1], "user": ANA})
    assert len(encoder.texts) - encoded <= 1  # the prompt is another; the text was not forgotten for both
