"""Upgrades while a signal is declared: users are learned with it, and a bundle that cannot take it never ranks."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from penchant.models.testing import tiny_bundle
from penchant.service.bundles.signal import find_signal
from penchant.service.settings import Settings
from penchant.service.store.bundles import drop_outdated

from .conftest import World, version_of, wait_for_bundle, wait_until

TEXTS = ["d e f g", "p o n m", "a b a b"]


@pytest.fixture
def declared(classifier: Path) -> dict[str, Any]:
    return {"relevance_model": str(classifier), "relevance_std": 8.0, "relevance_weight": 2.0}


@pytest.fixture(autouse=True)
def _read_prompts(world: World) -> None:
    """Make bundles that read prompts of all but `foreign`."""
    world.first, world.second, world.third = (
        tiny_bundle(world.extractors[0], seed=seed, match=True) for seed in range(3)
    )


def teach(client: TestClient, user: str) -> None:
    event = {"type": "ranking", "user": user, "prompt": "a b c", "order": [[text] for text in TEXTS]}
    assert client.post("/v1/feedback", json=event).json()["accepted"] == 1


def find_versions(world: World) -> set[str]:
    assert world.store is not None
    return {row[0] for row in world.store.run("SELECT bundle_version FROM user_states")}


def test_users_are_learned_with_the_signal(world: World, declared: dict[str, Any]) -> None:
    client = world.serve(**declared)
    teach(client, "u")
    world.upgrade(world.second, "--wait")
    wait_for_bundle(client, bundle=world.second)
    signal = find_signal(Settings(**declared))
    assert signal is not None
    assert find_versions(world) == {f"{b.version}+{signal.tag}" for b in (world.first, world.second)}
    environment = {f"PENCHANT_{name.upper()}": str(value) for name, value in declared.items()}
    assert f"{world.second.version}+{signal.tag}: 1 users, 1 equal" in world.run("replay", **environment)
    assert f"{world.second.version}: 1 users, 1 equal, 0 different, 1 behind" in world.run("replay")


def test_a_bundle_that_cannot_take_the_signal_is_given_up(world: World, declared: dict[str, Any]) -> None:
    client = world.serve(**declared)
    teach(client, "u")
    world.upgrade(world.foreign)
    wait_until(lambda: world.describe(world.foreign)["status"] == "failed")
    assert "needs a bundle that reads prompts" in world.describe(world.foreign)["message"]
    assert version_of(client) == world.first.version
    assert len(client.app.state.runtime.models.sources) == 1  # type: ignore[attr-defined]


def test_states_with_a_signal_go_with_their_bundle(world: World, declared: dict[str, Any]) -> None:
    for changes in ({}, declared, declared | {"relevance_weight": 1.0}):
        client = world.serve(**changes, expiry_interval_seconds=10_000)
        if not changes:
            teach(client, "u")
        client.app.state.runtime.models.current.replayer.idle.wait(timeout=30)  # type: ignore[attr-defined]
        world.stop()
    assert len(find_versions(world)) == 3
    client = world.serve(**declared, expiry_interval_seconds=10_000)
    for bundle in (world.second, world.third):
        world.upgrade(bundle, "--wait")
        wait_for_bundle(client, bundle=bundle)
    store = client.app.state.runtime.store  # type: ignore[attr-defined]
    after: Any = ("", "")
    while after is not None:
        with store.writing() as connection:
            after = drop_outdated(connection, world.third.version, store.clock(), after)
    assert {version.partition("+")[0] for version in find_versions(world)} == {
        world.second.version,
        world.third.version,
    }
