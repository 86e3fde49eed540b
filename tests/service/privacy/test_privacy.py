"""What is held on a user can be told, and can be gone: from every byte of the store, and from memory on every server."""

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
from penchant.service.access.tenancy import TenantSettings, put_settings
from penchant.service.app import create_app
from penchant.service.log.reading import context_of, without_texts
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
    shown = {"query": TEXTS["prompt"], "documents": list(TEXTS["shown"]), "user": USER}
    assert client.post("/v1/rerank", json=shown).status_code == 200


def written(store: Any, tmp_path: Path) -> bytes:
    """Every byte that is on disk, or every value of every row, after what was deleted was thrown away."""
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
    found: list[bytes] = []
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM FULL")
        tables = connection.exec_driver_sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).all()
        for (table,) in tables:
            for row in connection.exec_driver_sql(f'SELECT * FROM "{table}"'):
                found += [
                    bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    for value in row
                ]
    engine.dispose()
    return b"\0".join(found)


def traces(extractor: FeatureExtractor) -> dict[str, bytes]:
    """What may not be found of a user who is gone."""
    texts = [*TEXTS["own"], *TEXTS["shown"]]
    vectors = extractor.extract(texts[:2]).vectors
    return {
        "user": USER.encode(),
        "prompt": TEXTS["prompt"].encode(),
        "event id": b"edit-of-ana",
        "metadata": b"ana wrote",
        **{f"text {i}": text.encode() for i, text in enumerate(texts)},
        **{f"vector {i}": vector.tobytes() for i, vector in enumerate(vectors)},
    }


def test_nothing_of_a_deleted_user_is_left_on_disk(
    client: TestClient, store: Any, tmp_path: Path, clock: Any
) -> None:
    teach(client)
    client.get(f"/v1/users/{USER}")
    sought = traces(FeatureExtractor(HashingEncoder()))
    before = written(store, tmp_path)
    # Rankings are written a moment later, or before the deletion at the latest.
    assert {name for name, trace in sought.items() if trace in before} >= set(sought) - {"text 2", "text 3"}
    assert client.delete(f"/v1/users/{USER}").status_code == 204
    after = written(store, tmp_path)
    assert [name for name, trace in sought.items() if trace in after] == []
    assert TEXTS["shared"].encode() in after  # ben's judgement still needs it
    assert OTHER.encode() in after
    assert client.get(f"/v1/users/{USER}/export").status_code == 404


def memory(client: TestClient) -> Any:
    """What a server holds in memory of ana's texts."""
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
        "rankings": [r for _, r in served.learner._rankings._recent.items() if r.user == USER],
        "states": model.cache.find(("default", USER))[1],
    }


NOTHING: dict[str, Any] = {"features": [], "items": [], "rankings": [], "states": None}


def test_nothing_of_a_deleted_user_is_left_in_memory(client: TestClient) -> None:
    teach(client)
    client.get(f"/v1/users/{USER}")
    held = memory(client)
    assert len(held["features"]) == 4
    assert all(held.values())
    client.delete(f"/v1/users/{USER}")
    assert memory(client) == NOTHING


@pytest.mark.parametrize("new_store", ["postgresql"], indirect=True)
def test_other_servers_forget_too(client: TestClient, settings: Settings, clock: Any) -> None:
    extractor = FeatureExtractor(HashingEncoder())
    app = create_app(settings, extractor=extractor, bundle=tiny_bundle(extractor), clock=clock)
    teach(client)
    with TestClient(app) as other:
        body = {"query": TEXTS["prompt"], "documents": [*TEXTS["own"], *TEXTS["shown"]], "user": USER}
        shown = other.post("/v1/rerank", json=body).json()["id"]
        assert all(memory(other).values())
        client.delete(f"/v1/users/{USER}")
        other.app.state.runtime.feed.poll()
        other.portal.call(asyncio.sleep, 0)  # what it told the event loop is done
        assert memory(other) == NOTHING
        other.delete("/v1/users/nobody")  # what waited to be written is, and is gone
        answer = other.post(
            "/v1/feedback", json={"type": "choice", "rank_id": shown, "index": 0, "user": USER}
        )
        assert answer.json()["code"] == "rank_not_found"


def test_all_that_is_held_is_told(client: TestClient) -> None:
    teach(client)
    client.get(f"/v1/users/{USER}")
    client.delete("/v1/users/nobody")  # what was shown is written before
    told = client.get(f"/v1/users/{USER}/export").json()
    assert told["user"] == USER
    assert told["standing"]["feedback_events"] == 3
    assert told["standing"]["trust"]["share"] == 1.0
    assert [event["event"]["type"] for event in told["events"]] == ["preference", "vote", "edit"]
    assert told["events"][0]["event"]["chosen"] == TEXTS["own"][0]
    assert told["events"][1]["learned"] == {
        "type": "vote", "value": 1.0, "weight": 1.0, "discount": 1.0, "flags": [], "groups": None,
        "target_event_id": None, "source": None,
    }  # fmt: skip
    key = FeatureExtractor(HashingEncoder()).key(TEXTS["own"][0])
    assert told["events"][0]["texts"][0]["feature_key"] == key.hex()
    (state,) = told["states"]
    assert (state["judgements"], state["through_seq"]) == (3, 3)
    assert len(state["beliefs"]["mean"]) == len(state["evidence"]["linear"]) == 4
    assert told["rankings"][0]["texts"] == list(TEXTS["shown"])
    (answer,) = told["stored_answers"]
    assert [one["user"] for one in answer["users"]] == [USER]
    assert OTHER not in orjson.dumps(told).decode().replace("ben judged too", "")
    assert client.get("/v1/users/nobody/export").json()["code"] == "user_not_found"


def keep_no_texts(client: TestClient) -> None:
    served = client.app.state.runtime
    with served.store.writing() as connection:
        put_settings(connection, "default", TenantSettings(keep_texts=False), 0.0)
    served.feed.poll()


def test_a_tenant_that_keeps_no_texts_is_learned_from_all_the_same(
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
    told = client.get(f"/v1/users/{USER}").json()
    assert told["reasons"]["texts"] == []
    assert told["reasons"]["judged_texts"] > 0
    page = client.get(f"/v1/users/{USER}/feedback").json()["data"]
    assert page[0]["event"] == {"type": "preference", "context": context_of({"prompt": TEXTS["prompt"]})}
    client.delete("/v1/users/nobody")  # whatever was shown would be written before
    held = written(fresh, tmp_path)
    texts = [TEXTS["shared"], TEXTS["prompt"], "ana wrote", *TEXTS["own"], *TEXTS["shown"]]
    assert [text for text in texts if text.encode() in held] == []
    again = serve(**fresh.place)
    assert again.post("/v1/rerank", json=body).status_code == 200
    assert again.get(f"/v1/users/{USER}").json()["feedback_events"] == 4


def test_an_event_without_texts_keeps_the_rest() -> None:
    sent = {
        "type": "rating", "text": "t", "prompt": "p", "value": 3, "scale": [1, 5], "metadata": {"a": "t"},
        "source": "web", "weight": 0.5,
    }  # fmt: skip
    kept = orjson.loads(without_texts(orjson.dumps(sent).decode()))
    assert kept == {
        "type": "rating", "value": 3, "scale": [1, 5], "source": "web", "weight": 0.5, "context": context_of(sent),
    }  # fmt: skip
    assert context_of(kept) == context_of(sent) != context_of({"prompt": "another"})
    assert context_of({}) == context_of({"prompt": ""})
