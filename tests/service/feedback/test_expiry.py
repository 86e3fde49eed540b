"""Rankings and stored answers do not fill the disk or memory, and are removed in slices that make nobody wait."""

import json

import pytest
from typer.testing import CliRunner

from penchant.service.cli.app import app
from penchant.service.store import requests

TEXTS = ["a" * 1000, "b" * 1000]
BYTES = len(json.dumps({"prompts": ["q"], "texts": TEXTS}, separators=(",", ":")))
VOTE = {"type": "vote", "user": "u", "text": "t", "value": 1}


def rank(client, texts=TEXTS):
    return client.post("/v1/rerank", json={"query": "q", "documents": texts}).json()["id"]


def settle(client):
    """Return when all rankings are stored, measured, and removed if they are too many."""
    runtime = client.app.state.runtime

    async def wait():
        await runtime.writer.run_between_groups(lambda: None)
        if runtime.writer._commits.quota._measuring is not None:
            await runtime.writer._commits.quota._measuring

    client.portal.call(wait)
    for _ in range(20):
        client.delete("/v1/users/nobody")


def stored(store):
    return {rank_id for (rank_id,) in store.run("SELECT rank_id FROM rankings")}


def test_the_oldest_rankings_beyond_the_quota_are_removed(serve, clock, store, logs):
    client = serve(tenant_ranking_bytes=5 * BYTES)
    ids = []
    for _ in range(12):
        clock.now += 1
        ids.append(rank(client))
        settle(client)
    assert stored(store) == set(ids[-4:])  # a twentieth of the quota is freed in advance
    vote = {"type": "vote", "user": "u", "rank_id": ids[-1], "index": 0, "value": 1}
    assert client.post("/v1/feedback", json=vote).status_code == 200
    assert "penchant_evicted_rankings_total 8.0" in client.get("/metrics").text
    assert [entry["event"] for entry in logs].count("ranking_quota_full") == 1  # in an hour


def test_a_ranking_larger_than_the_quota_is_not_stored(serve, store):
    client = serve(tenant_ranking_bytes=BYTES)
    small, large = rank(client), rank(client, ["c" * 3000])
    settle(client)
    assert stored(store) == {small}
    vote = {"type": "vote", "user": "u", "rank_id": large, "index": 0, "value": 1}
    assert client.post("/v1/feedback", json=vote).status_code == 200  # from memory
    assert "penchant_rankings_unwritten_total 1.0" in client.get("/metrics").text


def test_rankings_that_other_servers_or_starts_stored_count(serve, store, clock):
    client = serve()
    old = [rank(client) for _ in range(6)]
    client = serve(tenant_ranking_bytes=4 * BYTES)
    assert stored(store) == set(old)
    clock.now += 1
    new = rank(client)
    settle(client)
    kept = stored(store)
    assert new in kept
    assert len(kept) == 3


def test_a_tenant_can_have_a_quota_of_its_own(serve, store, monkeypatch, tmp_path):
    where = (
        ["--store-url", store.place["store_url"].get_secret_value()]
        if store.is_postgres
        else ["--data-dir", str(store.place["data_dir"])]
    )
    set_to = ["tenants", "set", "default", "--ranking-bytes", str(2 * BYTES + 300), *where]
    result = CliRunner().invoke(app, set_to)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["ranking_bytes"] == 2 * BYTES + 300
    client = serve()
    for _ in range(5):
        rank(client)
        settle(client)
    assert len(stored(store)) == 2
    (limits,) = {json.dumps(model["limits"]) for model in client.get("/v1/models").json()["data"]}
    assert json.loads(limits)["ranking_bytes"] == 2 * BYTES + 300


def test_what_expired_is_removed_in_slices_between_groups(serve, store, clock, monkeypatch):
    client = serve(expiry_grace_hours=48.0)
    for number in range(10):
        rank(client)
        answer = client.post("/v1/feedback", json=VOTE, headers={"Idempotency-Key": f"k{number}"})
        assert answer.status_code == 200
    settle(client)
    monkeypatch.setattr(requests, "SLICE_ROWS", 3)
    removed = []
    drop = requests.drop_rankings

    def counted(connection, tenant, ids):
        removed.append(len(ids))
        drop(connection, tenant, ids)

    monkeypatch.setattr(requests, "drop_rankings", counted)
    clock.now += 25 * 3600
    settle(client)
    assert removed == [3, 3, 3, 1]
    assert store.run("SELECT count(*) FROM rankings") == [(0,)]
    assert store.run("SELECT count(*) FROM idempotency") == [(0,)]
    assert store.run("SELECT count(*) FROM answered_users") == [(0,)]
    assert "penchant_expired_rows_total 20.0" in client.get("/metrics").text


def test_a_slice_of_large_rankings_has_fewer(serve, store, clock, monkeypatch):
    client = serve()
    for _ in range(5):
        rank(client)
    settle(client)
    monkeypatch.setattr(requests, "SLICE_BYTES", 2 * BYTES)
    clock.now += 1
    slices = []
    with client.app.state.runtime.store.writing() as connection:
        while dropped := requests.drop_older_rankings(connection, clock.now):
            slices.append((dropped["default"].rows, dropped["default"].size, dropped["default"].has_more))
    assert slices == [(2, 2 * BYTES, True), (2, 2 * BYTES, True), (1, BYTES, False)]


@pytest.mark.parametrize("limit", ["max_queued_ranking_bytes", "max_queued_rankings"])
def test_rankings_that_wait_are_bounded(serve, store, limit):
    client = serve(**{limit: 1}, ranking_write_delay_seconds=600.0, ranking_cache_bytes=0)
    first, _, last = rank(client), rank(client), rank(client)
    settle(client)
    assert stored(store) == {first}
    vote = {"type": "vote", "user": "u", "rank_id": last, "index": 0, "value": 1}
    assert client.post("/v1/feedback", json=vote).status_code == 200  # the newest is in memory
    assert "penchant_rankings_unwritten_total 2.0" in client.get("/metrics").text
