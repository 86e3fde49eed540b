"""`penchant replay`: whether the log says what was saved, and what is done where it does not."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from starlette.testclient import TestClient
from typer.testing import CliRunner

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.cli.app import app
from penchant.service.settings import Settings

Serve = Callable[..., TestClient]
Replay = Callable[..., str]
TEXTS = [f"text number {number} " + "x" * number for number in range(12)]


@pytest.fixture
def replay(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """Runs the command beside the server; what it prints."""
    folder = tmp_path_factory.mktemp("bundle")
    tiny_bundle(FeatureExtractor(HashingEncoder())).save(folder)
    url = settings.store_url
    at = ("--data-dir", str(settings.data_dir)) if url is None else ("--store-url", url.get_secret_value())

    def run(*arguments: str, code: int = 0) -> str:
        found: Result = CliRunner(env={"COLUMNS": "300"}).invoke(
            app, ["replay", "--bundle", str(folder), *at, *arguments]
        )
        assert found.exit_code == code, found.output
        return found.stdout

    return run


def teach(client: TestClient, users: int = 3) -> None:
    """Comparisons, votes, a change of mind, and a retraction of every user."""
    rng = random.Random(3)
    for number in range(users):
        user, events = f"u{number}", list[dict[str, Any]]()
        for step in range(25):
            a, b = sorted(rng.sample(TEXTS, 2), key=len, reverse=step < 12)
            events.append({"type": "preference", "user": user, "chosen": a, "rejected": b})
        events.append({"type": "vote", "user": user, "text": TEXTS[0], "value": 1, "event_id": f"v{number}"})
        events.append({"type": "retract", "user": user, "target_event_id": f"v{number}"})
        events.append({"type": "ranking", "user": user, "order": [[TEXTS[1]], TEXTS[2:4]]})
        assert client.post("/v1/feedback", json={"events": events}).json()["accepted"] == 28


@pytest.mark.parametrize("half_life", [None, 10.0])
def test_what_was_saved_is_what_the_log_says(
    serve: Serve, replay: Replay, half_life: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if half_life is not None:
        monkeypatch.setenv("PENCHANT_FORGETTING_HALF_LIFE_DAYS", str(half_life))
    client = serve(forgetting_half_life_days=half_life)
    teach(client)
    told = replay()
    assert "3 users, 3 equal, 0 different" in told
    assert "1 users, 1 equal" in replay("--tenant", "default", "--user", "u1")
    assert "0 users" in replay("--tenant", "another")


def test_a_difference_is_found_and_repaired(serve: Serve, store: Any, replay: Replay) -> None:
    client = serve()
    teach(client)
    before = client.get("/v1/users/u0").json()
    (other,) = store.run("SELECT state FROM user_states WHERE user_id = 'u1'")
    store.run("UPDATE user_states SET state = :state WHERE user_id = 'u0'", state=other[0])
    told = replay(code=1)
    assert "3 users, 2 equal, 1 different" in told
    assert "1 different" in replay("--repair")
    assert "3 equal, 0 different" in replay()
    again = serve().get("/v1/users/u0").json()
    assert again["uncertainty"] == pytest.approx(before["uncertainty"], abs=1e-6)


def test_what_is_behind_is_caught_up_before_it_is_compared(serve: Serve, store: Any, replay: Replay) -> None:
    client = serve()
    teach(client)
    client.post("/v1/feedback", json={"type": "vote", "user": "u0", "text": TEXTS[5], "value": -1})
    store.run("DELETE FROM user_states WHERE user_id = 'u1'")
    store.run("UPDATE user_states SET through_seq = 27 WHERE user_id = 'u2'")  # a lie: the state knows more
    told = replay(code=1)
    assert "3 users, 2 equal, 1 different, 2 behind" in told
    assert "2 repaired" in replay("--repair")
    assert "3 equal, 0 different, 0 behind" in replay()


def test_states_of_another_bundle_are_not_looked_at(serve: Serve, replay: Replay) -> None:
    extractor = FeatureExtractor(HashingEncoder())
    client = serve(bundle=Bundle(tiny_bundle(extractor, seed=1).reward, tiny_bundle(extractor).manifest))
    teach(client)
    assert "3 equal, 0 different, 3 behind" in replay()


def test_one_user_needs_a_tenant(serve: Serve, replay: Replay) -> None:
    serve()
    replay("--user", "u1", code=2)
