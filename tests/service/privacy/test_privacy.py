"""Stored data of a user can be exported, and deleted from every byte of the store and every server's memory."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import create_engine
from starlette.testclient import TestClient

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.items import item_key
from penchant.models.testing import tiny_bundle
from penchant.service.access.limits import TenantSettings, put_settings
from penchant.service.app import create_app
from penchant.service.log.reading import hash_context, remove_texts
from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME, store_place

Serve = Callable[..., TestClient]
USER, OTHER = "ana.who.wants.to.be.forgotten", "ben"
TEXTS = {
    "own": ("a text that ana alone judged, about herons", "and another one about kingfishers"),
    "shown": ("something about owls that ana was only shown", "and about storks"),
    "shared": "what ben judged too: sparrows",
    "prompt": "Which bird does ana mean?",
}


def teach(client: TestClient) -> None:
    first, second = TEXTS["own"]
    events = [
        {"type": "preference", "user": USER, "prompt": TEXTS["prompt"], "chosen": first, "rejected": second},
        {
            "type": "vote",
            "user": USER,
            "text": TEXTS["shared"],
            "value": 1,
            "metadata": {"note": "ana wrote: herons"},
        },
        {"type": "edit", "user": USER, "original": first, "edited": second, "event_id": "edit-of-ana"},
        {"type": "vote", "user": OTHER, "text": TEXTS["shared"], "value": 1},
    ]
    answer = client.post("/v1/feedback", json={"events": events}, headers={"Idempotency-Key": "k1"})
    assert answer.json()["accepted"] == 4
    request = {"query": TEXTS["prompt"], "documents": list(TEXTS["shown"]), "user": USER}
    assert client.post("/v1/rerank", json=request).status_code == 200


def read_store(store: Any, tmp_path: Path) -> bytes:
    """Return every byte on disk, or every value of every row, after deleted data has been purged."""
    place = store_place(Settings(**store.place))
    if not store.is_postgres:
        engine = create_engine(f"sqlite:///{place / FILE_NAME}")
        with engine.connect() as connection:
            raw = connection.connection
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raw.execute("VACUUM")
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
        return b"".join(path.read_bytes() for path in sorted(place.iterdir()) if path.is_file())
    engine = create_engine(place, isolation_level="AUTOCOMMIT")
    values: list[bytes] = []
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM FULL")
        tables = connection.exec_driver_sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).all()
        for (table,) in tables:
            for row in connection.exec_driver_sql(f'SELECT * FROM "{table}"'):
                values += [
                    bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    for value in row
                ]
    engine.dispose()
    return b"\0".join(values)


def traces(extractor: FeatureExtractor, *, match: bool) -> dict[str, bytes]:
    """Return the byte strings that must not be found after the user is deleted."""
    texts = [*TEXTS["own"], *TEXTS["shown"]]
    vectors = extractor.extract([*texts[:2], TEXTS["prompt"]] if match else texts[:2]).vectors
    return {
        "user": USER.encode(),
        "prompt": TEXTS["prompt"].encode(),
        "event id": b"edit-of-ana",
        "metadata": b"ana wrote",
        **{f"text {i}": text.encode() for i, text in enumerate(texts)},
        **{f"vector {i}": vector.tobytes() for i, vector in enumerate(vectors)},
    }


@pytest.mark.parametrize("match", [False, True])
def test_nothing_of_a_deleted_user_is_left_on_disk(
    serve: Serve, store: Any, tmp_path: Path, match: bool
) -> None:
    """This includes the features of the prompt under a bundle that reads prompts."""
    extractor = FeatureExtractor(HashingEncoder())
    client = serve(tiny_bundle(extractor, match=match))
    teach(client)
    client.get(f"/v1/users/{USER}")
    sought = traces(extractor, match=match)
    before = read_store(store, tmp_path)
    # Rankings are written with a short delay, but before the deletion.
    assert {name for name, trace in sought.items() if trace in before} >= set(sought) - {"text 2", "text 3"}
    assert client.delete(f"/v1/users/{USER}").status_code == 204
    after = read_store(store, tmp_path)
    assert [name for name, trace in sought.items() if trace in after] == []
    assert TEXTS["shared"].encode() in after  # ben's judgement still refers to it
    assert OTHER.encode() in after
    assert client.get(f"/v1/users/{USER}/export").status_code == 404


def memory(client: TestClient) -> Any:
    """Return what a server holds in memory of ana's texts."""
    served = client.app.state.runtime
    key = FeatureExtractor(HashingEncoder()).key
    texts = [*TEXTS["own"], *TEXTS["shown"]]
    (model,) = served.models.held
    return {
        "features": [t for t in texts if model.source.cache.get("default", key(t)) is not None],
        "items": [
            t
            for t in texts
            for p in ("", TEXTS["prompt"])
            if ("default", item_key(p, t)) in model.describer._cache
        ],
        "rankings": [r for _, r in served.learner._resolver.rankings._recent.items() if r.user == USER],
        "states": model.cache.find(("default", USER))[1],
    }


NOTHING: dict[str, Any] = {"features": [], "items": [], "rankings": [], "states": None}


def test_nothing_of_a_deleted_user_is_left_in_memory(client: TestClient) -> None:
    teach(client)
    client.get(f"/v1/users/{USER}")
    before = memory(client)
    assert len(before["features"]) == 4
    assert all(before.values())
    client.delete(f"/v1/users/{USER}")
    assert memory(client) == NOTHING


@pytest.mark.parametrize("new_store", ["postgresql"], indirect=True)
def test_other_servers_forget_too(client: TestClient, settings: Settings, clock: Any) -> None:
    extractor = FeatureExtractor(HashingEncoder())
    app = create_app(settings, extractor=extractor, bundle=tiny_bundle(extractor), clock=clock)
    teach(client)
    with TestClient(app) as other:
        body = {"query": TEXTS["prompt"], "documents": [*TEXTS["own"], *TEXTS["shown"]], "user": USER}
        rank_id = other.post("/v1/rerank", json=body).json()["id"]
        assert all(memory(other).values())
        client.delete(f"/v1/users/{USER}")
        other.app.state.runtime.feed.poll()
        other.portal.call(asyncio.sleep, 0)  # callbacks sent to the event loop have run
        assert memory(other) == NOTHING
        other.delete("/v1/users/nobody")  # pending writes are done
        answer = other.post(
            "/v1/feedback", json={"type": "choice", "rank_id": rank_id, "index": 0, "user": USER}
        )
        assert answer.json()["code"] == "rank_not_found"


def test_an_export_contains_all_stored_data(client: TestClient) -> None:
    teach(client)
    client.get(f"/v1/users/{USER}")
    client.delete("/v1/users/nobody")  # pending rankings are written first
    export = client.get(f"/v1/users/{USER}/export").json()
    assert export["user"] == USER
    assert export["standing"]["feedback_events"] == 3
    assert export["standing"]["trust"]["share"] == 1.0
    assert [event["event"]["type"] for event in export["events"]] == ["preference", "vote", "edit"]
    assert export["events"][0]["event"]["chosen"] == TEXTS["own"][0]
    assert export["events"][1]["learned"] == {
        "type": "vote", "value": 1.0, "weight": 1.0, "discount": 1.0, "flags": [], "groups": None,
        "target_event_id": None, "source": None,
    }  # fmt: skip
    key = FeatureExtractor(HashingEncoder()).key(TEXTS["own"][0])
    assert export["events"][0]["texts"][0]["feature_key"] == key.hex()
    (state,) = export["states"]
    assert (state["judgements"], state["through_seq"]) == (3, 3)
    assert len(state["beliefs"]["mean"]) == len(state["evidence"]["linear"]) == 4
    assert export["rankings"][0]["texts"] == list(TEXTS["shown"])
    (answer,) = export["stored_answers"]
    assert [user["user"] for user in answer["users"]] == [USER]
    assert OTHER not in orjson.dumps(export).decode().replace("ben judged too", "")
    assert client.get("/v1/users/nobody/export").json()["code"] == "user_not_found"


def keep_no_texts(client: TestClient) -> None:
    served = client.app.state.runtime
    with served.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(keep_texts=False), 0.0)
    served.feed.poll()


def test_users_of_a_tenant_that_keeps_no_texts_are_still_learned(
    serve: Serve, store: Any, fresh: Any, tmp_path: Path
) -> None:
    client = serve()
    teach(client)
    body = {"query": "which?", "documents": [TEXTS["shared"], *TEXTS["own"]], "user": USER}
    expected = client.post("/v1/rerank", json=body).json()["results"]
    client = serve(**fresh.place)
    keep_no_texts(client)
    teach(client)
    ranking = client.post("/v1/rerank", json=body).json()
    assert ranking["results"] == expected
    assert client.post(
        "/v1/feedback", json={"type": "choice", "rank_id": ranking["id"], "index": 1, "user": USER}
    ).json() == {
        "accepted": 1,
        "duplicates": 0,
        "rejected": [],
        "users": [{"user": USER, "posterior_version": 4, "feedback_events": 4}],
    }
    description = client.get(f"/v1/users/{USER}").json()
    assert description["reasons"]["texts"] == []
    assert description["reasons"]["judged_texts"] > 0
    page = client.get(f"/v1/users/{USER}/feedback").json()["data"]
    assert page[0]["event"] == {"type": "preference", "context": hash_context({"prompt": TEXTS["prompt"]})}
    client.delete("/v1/users/nobody")  # pending rankings would be written first
    stored = read_store(fresh, tmp_path)
    texts = [TEXTS["shared"], TEXTS["prompt"], "ana wrote", *TEXTS["own"], *TEXTS["shown"]]
    assert [text for text in texts if text.encode() in stored] == []
    restarted = serve(**fresh.place)
    assert restarted.post("/v1/rerank", json=body).status_code == 200
    assert restarted.get(f"/v1/users/{USER}").json()["feedback_events"] == 4


def test_an_event_without_texts_keeps_its_other_fields() -> None:
    sent = {
        "type": "rating", "text": "t", "prompt": "p", "value": 3, "scale": [1, 5], "metadata": {"a": "t"},
        "source": "web", "weight": 0.5,
    }  # fmt: skip
    stripped = orjson.loads(remove_texts(orjson.dumps(sent).decode()))
    assert stripped == {
        "type": "rating", "value": 3, "scale": [1, 5], "source": "web", "weight": 0.5, "context": hash_context(sent),
    }  # fmt: skip
    assert hash_context(stripped) == hash_context(sent) != hash_context({"prompt": "another"})
    assert hash_context({}) == hash_context({"prompt": ""})
