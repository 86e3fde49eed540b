"""How often and how much a tenant and its keys may ask, and how long a request may take."""

import re
import time
from types import SimpleNamespace

import pytest
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from penchant.service.access import limits as quotas_module
from penchant.service.access.keyring import Scope, create_key
from penchant.service.access.limits import DAY, QuotaKind, Quotas, Tenancy, TenantSettings, put_settings
from penchant.service.settings import Settings
from penchant.service.store.keys import find_usage

BODY = {"query": "q", "documents": ["a", "b"]}
KEYS = {"acme": SecretStr("acme-key"), "umbrella": SecretStr("umbrella-key")}
ITEM = re.compile(r'"([a-z]+)"((?:;[a-z]=\d+)+)')


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def rank(client, key="acme-key", **body):
    return client.post("/v1/rerank", json=BODY | body, headers=bearer(key))


def vote(client, user, key="acme-key", **fields):
    event = {"type": "vote", "user": user, "text": "boats", "value": 1} | fields
    return client.post("/v1/feedback", json=event, headers=bearer(key))


def told(answer, header):
    """A structured list: name → parameters. Raises where it is none."""
    found = {}
    for item in answer.headers[header].split(", "):
        name, parameters = ITEM.fullmatch(item).groups()
        found[name] = {one[0]: int(one[2:]) for one in parameters[1:].split(";")}
    return found


def code(answer):
    return answer.status_code, answer.json()["code"]


@pytest.fixture
def minutes(monkeypatch):
    """The clock that the library counts by."""
    from limits import strategies
    from limits.storage import memory

    from penchant.service.access import limits as ours

    clock = SimpleNamespace(now=1_800_000_000.0)
    fake = SimpleNamespace(time=lambda: clock.now)
    for module in (strategies, memory, ours):
        monkeypatch.setattr(module, "time", fake)
    return clock


# Requests a minute


def test_without_limits_there_are_no_headers(client):
    answer = client.post("/v1/rerank", json=BODY)
    assert answer.status_code == 200
    assert not {"ratelimit", "ratelimit-policy", "retry-after"} & set(answer.headers)


def test_a_tenant_asks_so_often_and_no_more(serve, minutes):
    client = serve(api_keys=KEYS, tenant_requests_per_minute=3)
    for left in (2, 1, 0):
        answer = rank(client)
        assert answer.status_code == 200
        assert told(answer, "ratelimit-policy") == {"tenant": {"q": 3, "w": 60}}
        assert told(answer, "ratelimit")["tenant"]["r"] == left
    refused = rank(client)
    assert code(refused) == (429, "rate_limited")
    assert told(refused, "ratelimit")["tenant"] == {"r": 0, "t": int(refused.headers["retry-after"])}
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert rank(client, "umbrella-key").status_code == 200  # nobody else's concern
    minutes.now += 121
    assert rank(client).status_code == 200


def test_waiting_as_told_helps_in_the_end(serve, minutes):
    client = serve(api_keys=KEYS, tenant_requests_per_minute=2)
    for _ in range(2):
        rank(client)
    waited = 0
    while (answer := rank(client)).status_code == 429:
        minutes.now += int(answer.headers["retry-after"])
        waited += int(answer.headers["retry-after"])
    assert waited <= 120


def test_refused_requests_cost_nothing(serve, minutes):
    client = serve(api_keys=KEYS, tenant_requests_per_minute=2)
    for _ in range(20):
        rank(client)
    minutes.now += 121
    assert [rank(client).status_code for _ in range(3)] == [200, 200, 429]


def test_every_key_has_its_own_share_of_the_tenants(serve, minutes):
    client = serve(tenant_requests_per_minute=5, key_requests_per_minute=3)
    served = client.app.state.runtime
    with served.store.writing() as connection:
        one, other = (create_key(connection, "acme", [Scope.RANK], "", 0.0)[0] for _ in range(2))
    served.feed.poll()
    assert [rank(client, one).status_code for _ in range(4)] == [200, 200, 200, 429]
    answers = [rank(client, other) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert set(told(answers[0], "ratelimit")) == {"tenant", "key"}
    assert "5 per minute for this tenant" in answers[2].json()["detail"]
    assert told(answers[2], "ratelimit")["key"]["r"] == 1


def test_failures_count_and_bear_the_headers_too_but_strangers_do_not_count(serve, minutes):
    client = serve(api_keys=KEYS, tenant_requests_per_minute=2)
    for _ in range(5):
        assert "ratelimit" not in rank(client, "wrong").headers
    invalid = rank(client, documents=[])
    assert (invalid.status_code, told(invalid, "ratelimit")["tenant"]["r"]) == (422, 1)
    assert client.get("/v1/users/nobody", headers=bearer("acme-key")).status_code == 404
    assert rank(client).status_code == 429
    assert client.get("/healthz").status_code == 200


def test_a_tenants_own_limit_holds_as_soon_as_it_is_heard_of(serve, minutes):
    client = serve(api_keys=KEYS)
    served = client.app.state.runtime
    assert "ratelimit" not in rank(client).headers
    with served.store.writing() as connection:
        put_settings(connection, "acme", TenantSettings(requests_per_minute=1), 0.0)
    served.feed.poll()
    assert [rank(client).status_code for _ in range(2)] == [200, 429]
    assert "ratelimit" not in rank(client, "umbrella-key").headers


# Quotas


def test_candidates_a_day(serve, clock):
    client = serve(api_keys=KEYS, tenant_candidates_per_day=5)
    assert [rank(client).status_code for _ in range(2)] == [200, 200]
    refused = rank(client)
    assert code(refused) == (429, "quota_exceeded")
    until_midnight = DAY - clock.now % DAY
    assert int(refused.headers["retry-after"]) == until_midnight
    assert told(refused, "ratelimit-policy") == {"candidates": {"q": 5, "w": DAY}}
    assert told(refused, "ratelimit") == {"candidates": {"r": 1, "t": until_midnight}}
    assert rank(client, documents=["only one"]).status_code == 200
    assert rank(client, "umbrella-key").status_code == 200
    clock.now += until_midnight - 1
    assert rank(client).status_code == 429
    clock.now += 1
    assert rank(client).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", BODY),
        ("/v2/rerank", BODY),
        ("/rerank", BODY),
        ("/rerank", {"query": "q", "texts": ["a", "b"]}),
        ("/score", {"text_1": "q", "text_2": ["a", "b"]}),
        ("/v1/score", {"queries": "q", "documents": ["a", "b"]}),
        ("/v1/best-of-n", {"candidates": ["a", "b"]}),
        ("/users/u/v1/rerank", BODY),
    ],
)
def test_every_ranking_route_counts(serve, path, body):
    client = serve(api_keys=KEYS, tenant_candidates_per_day=3)
    answers = [client.post(path, json=body, headers=bearer("acme-key")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]


def test_events_a_day_are_those_that_were_accepted(serve):
    client = serve(api_keys=KEYS, tenant_events_per_day=2)
    assert vote(client, "u", event_id="e1").status_code == 200
    assert vote(client, "u", event_id="e1").json()["duplicates"] == 1
    assert vote(client, "u", value=5).status_code == 422
    assert vote(client, "u", event_id="e1", text="other").status_code == 422
    assert vote(client, "u").status_code == 200
    assert code(vote(client, "u")) == (429, "quota_exceeded")
    assert vote(client, "u", "umbrella-key").status_code == 200


def test_users_that_would_be_too_many(serve):
    client = serve(api_keys=KEYS, tenant_users=2)
    quotas = client.app.state.runtime.access.quotas
    assert [vote(client, user).status_code for user in ("u1", "u2")] == [200, 200]
    quotas.flush()
    assert code(vote(client, "u3")) == (429, "quota_exceeded")
    assert vote(client, "u1").status_code == 200  # a known one
    batch = [{"type": "vote", "user": user, "text": "boats", "value": 1} for user in ("u3", "u2")]
    answer = client.post("/v1/feedback", json={"events": batch}, headers=bearer("acme-key")).json()
    assert answer["accepted"] == 1
    assert [(one["index"], one["problem"]["code"]) for one in answer["rejected"]] == [(0, "quota_exceeded")]
    assert client.get("/v1/users/u3", headers=bearer("acme-key")).status_code == 404
    client.delete("/v1/users/u1", headers=bearer("acme-key"))
    quotas.flush()
    assert vote(client, "u3").status_code == 200


def test_use_is_remembered_over_a_restart(serve):
    client = serve(api_keys=KEYS, tenant_candidates_per_day=5)
    for _ in range(2):
        rank(client)
    client = serve(api_keys=KEYS, tenant_candidates_per_day=5)
    assert code(rank(client)) == (429, "quota_exceeded")


def test_two_servers_know_of_each_other_after_a_flush(client, clock):
    database = client.app.state.runtime.store
    tenancy = Tenancy(Settings(tenant_candidates_per_day=10))
    one, other = (Quotas(database, tenancy) for _ in range(2))
    one.spend("acme", QuotaKind.CANDIDATES, 4)
    other.spend("acme", QuotaKind.CANDIDATES, 4)
    for quotas in (one, other, one):
        quotas.flush()
    for quotas in (one, other):
        with pytest.raises(quotas_module.ApiError, match="2 remain"):
            quotas.spend("acme", QuotaKind.CANDIDATES, 3)
    with database.reading() as connection:
        assert find_usage(connection, int(clock.now // DAY)) == {("acme", "candidates"): 8}


def test_a_store_that_fails_delays_the_count_and_loses_none(client, clock, monkeypatch):
    database = client.app.state.runtime.store
    quotas = Quotas(database, Tenancy(Settings()))
    quotas.spend("acme", QuotaKind.EVENTS, 3)

    def broken(*_):
        raise OperationalError("INSERT", {}, Exception("the connection is gone"))

    with monkeypatch.context() as patch:
        patch.setattr(quotas_module.keys, "add_usage", broken)
        with pytest.raises(OperationalError):
            quotas.flush()
    quotas.spend("acme", QuotaKind.EVENTS, 2)
    quotas.flush()
    quotas.flush()
    clock.now += DAY
    quotas.spend("acme", QuotaKind.EVENTS, 1)
    quotas.flush()
    with database.reading() as connection:
        today = int(clock.now // DAY)
        assert find_usage(connection, today - 1) == {("acme", "events"): 5}
        assert find_usage(connection, today, ["acme"]) == {("acme", "events"): 1}
        assert find_usage(connection, today, ["umbrella"]) == {}


# Time, and what is told


def test_an_answer_that_takes_too_long(serve, encoder):
    client = serve(request_timeout_seconds=0.05)
    encoder.gate.clear()
    started = time.perf_counter()
    answer = client.post("/v1/rerank", json=BODY)
    assert code(answer) == (504, "deadline_exceeded")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert time.perf_counter() - started < 5
    encoder.gate.set()
    assert client.get("/healthz").status_code == 200


def test_limits_are_told(serve):
    client = serve(
        api_keys=KEYS,
        tenant_requests_per_minute=100,
        key_requests_per_minute=50,
        tenant_users=7,
        max_events=9,
    )
    served = client.app.state.runtime
    with served.store.writing() as connection:
        own = TenantSettings(requests_per_minute=20, candidates_per_day=1000, events_per_day=10)
        put_settings(connection, "acme", own, 0.0)
    served.feed.poll()
    limits = {
        tenant: client.get("/v1/models", headers=bearer(f"{tenant}-key")).json()["data"][0]["limits"]
        for tenant in KEYS
    }
    expected = {
        "tenant_requests_per_minute": 20,
        "key_requests_per_minute": 50,
        "candidates_per_day": 1000,
        "events_per_day": 10,
        "users": 7,
        "max_events": 9,
        "max_body_bytes": served.settings.max_body_bytes,
        "max_text_chars": served.settings.max_text_chars,
        "request_timeout_seconds": 60.0,
    }
    assert limits["acme"] | expected == limits["acme"]
    assert limits["umbrella"]["candidates_per_day"] is None
