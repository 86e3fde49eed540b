"""Upgrades to a bundle that reads prompts, from logs that were written without it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.match import COSINE, COVERAGE, MATCH_VERSION
from penchant.models.testing import tiny_bundle
from penchant.service.store.judgements import replay_events

from ..conftest import Store, WatchedEncoder
from .conftest import World, wait_for_bundle, wait_until

PROMPT = "which boat sails the sea"
TEXTS = ("a boat sails the sea", "trees grow in the garden", "bread rises in the oven")


@pytest.fixture
def matching(world: World) -> Bundle:
    return tiny_bundle(world.extractors[0], seed=5, match=True)


def teach(client: TestClient, user: str, *, prompt: str = PROMPT, texts: Sequence[str] = TEXTS) -> None:
    event: dict[str, Any] = {"type": "ranking", "order": [[text] for text in texts]}
    for number in range(2):
        body = {"user": user, "prompt": prompt, "event_id": f"{user}-{prompt[:5]}-{number}", **event}
        assert client.post("/v1/feedback", json=body).json()["accepted"] == 1


def keep_texts(client: TestClient, world: World, keep: bool) -> None:
    world.run("tenants", "set", "default", "--keep-texts" if keep else "--no-keep-texts")
    wait_until(lambda: client.app.state.runtime.access.tenancy.get("default").keep_texts == keep)  # type: ignore[attr-defined]


def score(client: TestClient, user: str, query: str = PROMPT) -> list[float]:
    body = {"query": query, "documents": list(TEXTS), "user": user}
    results = client.post("/v1/rerank", json=body).json()["results"]
    return [row["relevance_score"] for row in sorted(results, key=lambda row: row["index"])]


def read_match(client: TestClient, user: str) -> Any:
    """Return the match features of a user's first event under the current bundle, and whether they are known."""
    model = client.app.state.runtime.models.current  # type: ignore[attr-defined]
    extractor = model.source.extractor
    with client.app.state.runtime.store.reading() as connection:  # type: ignore[attr-defined]
        (event, *_) = replay_events(connection, "default", user, extractor.identity, MATCH_VERSION)
    assert event.vectors is not None
    return event.vectors[:, extractor.dim :], event.is_matched


def test_kept_texts_are_matched_at_an_upgrade(
    world: World, new_store: Callable[[], Store], matching: Bundle
) -> None:
    """The user ends where the new bundle would have brought them, and prompts are encoded once."""
    client, encoder = world.serve(), world.encoders[0]
    teach(client, "u")
    teach(client, "v")
    teach(client, "v", prompt="  ")
    assert PROMPT not in encoder.texts  # the old bundle does not read prompts
    output = world.upgrade(matching, "--wait")
    assert "reads prompts" in output
    assert "events learned without" not in output
    wait_for_bundle(client, bundle=matching)
    assert encoder.texts.count(PROMPT) == 1
    assert encoder.texts.count(TEXTS[0]) == 1
    match, is_matched = read_match(client, "u")
    assert is_matched
    assert match[0, COSINE] > match[1, COSINE]
    row = world.describe(matching)
    assert [row[f"events_{name}"] for name in ("unmatched", "partly_matched", "left_out")] == [0, 0, 0]
    assert "2 users, 2 equal, 0 different, 0 behind" in world.run("replay")
    upgraded = [score(client, user) for user in "uv"]
    world.stop()
    other = world.serve(new_store(), pinned=matching)
    teach(other, "u")
    teach(other, "v")
    teach(other, "v", prompt="  ")
    for user, scores in zip("uv", upgraded, strict=True):
        assert score(other, user) == pytest.approx(scores, abs=1e-6)  # a stored bundle is rounded


def test_a_rollback_serves_the_old_bundle_as_before(world: World, matching: Bundle) -> None:
    client = world.serve()
    teach(client, "u")
    before = score(client, "u")
    world.upgrade(matching, "--wait")
    wait_for_bundle(client, bundle=matching)
    after = score(client, "u")
    teach(client, "w")
    world.run("rollback")
    wait_for_bundle(client, bundle=world.first)
    assert score(client, "u") == before != after
    encoder = world.encoders[0]
    encoder.calls.clear()
    score(client, "u", "a query that no bundle has seen")
    assert encoder.texts == []


def test_what_cannot_be_matched_is_counted(
    world: World, store: Store, matching: Bundle, logs: list[Any]
) -> None:
    """Events without texts are learned without match, and blank prompts need none."""
    client = world.serve()
    teach(client, "kept")
    keep_texts(client, world, False)
    teach(client, "bare")
    client.post("/v1/feedback", json={"user": "blank", "type": "vote", "text": TEXTS[0], "value": 1})
    output = world.upgrade(matching, "--wait")
    wait_for_bundle(client, bundle=matching)
    assert "2 events learned without their match with the prompt, which is not known" in output
    row = world.describe(matching)
    assert [row[f"events_{name}"] for name in ("unmatched", "partly_matched", "left_out")] == [2, 0, 0]
    assert "2 events learned without their match" in world.run("upgrade", "--status")
    (entry,) = [entry for entry in logs if entry["event"] == "upgrade_learned"]
    assert (entry["unmatched"], entry["partly_matched"], entry["left_out"]) == (2, 0, 0)
    assert read_match(client, "kept")[1]
    assert read_match(client, "blank")[1]
    match, is_matched = read_match(client, "bare")
    assert not is_matched
    assert np.isnan(match).all()
    assert client.get("/v1/users/bare").json()["state"] == "personal"
    replayed = world.run("replay")
    assert "3 users, 3 equal" in replayed
    assert "2 events learned without their match" in replayed
    # A retraction learns the whole log again, but the events are not counted again.
    client.post("/v1/feedback", json={"user": "bare", "type": "retract", "target_event_id": "bare-which-1"})
    wait_until(lambda: score(client, "bare"))
    assert "1 event learned without their match" not in world.run("upgrade", "--status")
    assert "2 events learned without their match" in world.run("upgrade", "--status")


def test_stored_prompts_give_the_similarity_without_texts(
    world: World, store: Store, matching: Bundle
) -> None:
    """Match features of another version cannot be used, but the embeddings behind them can."""
    client = world.serve()
    world.upgrade(matching, "--wait")
    wait_for_bundle(client, bundle=matching)
    keep_texts(client, world, False)
    teach(client, "u")
    known, _ = read_match(client, "u")
    store.run("UPDATE judged_items SET match_version = '0'")
    other = tiny_bundle(world.extractors[0], seed=6, match=True)
    output = world.upgrade(other, "--wait")
    wait_for_bundle(client, bundle=other)
    assert "2 events learned with the similarity to the prompt, but without the words they share" in output
    assert world.describe(other)["events_partly_matched"] == 2
    match, is_matched = read_match(client, "u")
    assert is_matched
    np.testing.assert_array_equal(match[:, COSINE], known[:, COSINE])
    assert np.isnan(match[:, COVERAGE]).all()
    assert "1 users, 1 equal" in world.run("replay")


@pytest.mark.parametrize("reads_prompts", [False, True])
def test_short_texts_that_were_not_kept_are_used_by_a_bundle_that_reads_windows(
    world: World, matching: Bundle, reads_prompts: bool
) -> None:
    """The features of a text that fits one window are the same, so they are used even if the text is not known."""
    long_text = "word " * 300
    windowed = FeatureExtractor(WatchedEncoder(max_windows=3))
    world.extractors.append(windowed)
    new = tiny_bundle(windowed, seed=7, match=True)
    client = world.serve()
    if reads_prompts:
        world.upgrade(matching, "--wait")
        wait_for_bundle(client, bundle=matching)
    keep_texts(client, world, False)
    teach(client, "short")
    teach(client, "long", texts=[TEXTS[0], long_text])
    model = client.app.state.runtime.models.current  # type: ignore[attr-defined]
    store = client.app.state.runtime.store  # type: ignore[attr-defined]
    with store.reading() as connection:
        before = list(
            replay_events(
                connection, "default", "short", model.source.extractor.identity, model.fold.match_version
            )
        )
    assert "2 of default" in world.upgrade(new, code=1)  # only the judgements of long texts are lost
    output = world.upgrade(new, "--wait", "--accept-loss")
    wait_for_bundle(client, bundle=new)
    row = world.describe(new)
    unmatched = 0 if reads_prompts else 2
    assert (row["events_unmatched"], row["events_partly_matched"], row["events_left_out"]) == (
        unmatched,
        0,
        2,
    )
    assert "2 events left out: their texts were not kept" in output
    assert windowed.encoder.texts.count(TEXTS[0]) == 0  # type: ignore[attr-defined]
    with store.reading() as connection:
        after = list(replay_events(connection, "default", "short", windowed.identity, MATCH_VERSION))
    for old, current in zip(before, after, strict=True):
        assert old.vectors is not None
        assert current.vectors is not None
        np.testing.assert_array_equal(current.vectors[:, : old.vectors.shape[1]], old.vectors)
        assert current.is_matched == reads_prompts
    assert client.get("/v1/users/short").json()["state"] == "personal"
    assert client.get("/v1/users/long").json()["state"] == "population"
    assert client.delete("/v1/users/short").status_code == 204
