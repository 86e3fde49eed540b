"""Upgrades to another bundle, and rollbacks, while the servers keep answering."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.testing import tiny_bundle
from penchant.service.doctor.model import check_model
from penchant.service.settings import Settings
from penchant.service.store.inspection import inspect_store
from penchant.service.users.replayer import Replayer

from ..conftest import Store, WatchedEncoder
from .conftest import PATIENCE_SECONDS, World, version_of, wait_for_bundle, wait_until

DOCUMENTS = ["boat sea", "tree house", "many words " * 20]


def judgement(user: str, number: int) -> dict[str, Any]:
    """Return the n-th event of a user. All kinds of events occur, retractions included."""
    texts = [f"{user} text {number % 7} " + "x " * (number % 5), f"other {number % 3}"]
    match number % 5:
        case 0:
            event: dict[str, Any] = {"type": "vote", "text": texts[0], "value": 1 if number % 2 else -1}
        case 1 | 2:
            event = {"type": "preference", "chosen": texts[0], "rejected": texts[1]}
        case 3:
            event = {"type": "rating", "text": texts[1], "value": number % 4, "scale": [0, 4]}
        case _:
            event = {"type": "retract", "target_event_id": f"{user}-{number - 1}"}
    return {"user": user, "event_id": f"{user}-{number}", **event}


def teach(client: TestClient, user: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        answer = client.post("/v1/feedback", json=judgement(user, number))
        assert answer.status_code == 200, answer.text


def ranked(client: TestClient, user: str) -> tuple[int, list[float]]:
    """Return (posterior version, scores in the order of the documents)."""
    answer = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "user": user})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    scores = {result["index"]: result["relevance_score"] for result in body["results"]}
    return body["meta"]["personalization"]["posterior_version"], [scores[i] for i in range(len(DOCUMENTS))]


def rank_with_one_bundle(
    world: World, store: Store, bundle: Bundle, event_counts: dict[str, int]
) -> dict[Any, list[float]]:
    """Return the rankings of a server that has only ever had `bundle`, after each event of the users."""
    client = world.serve(store, pinned=bundle)
    scores: dict[Any, list[float]] = {}
    for user, events in event_counts.items():
        for number in range(events):
            teach(client, user, [number])
            scores[user, number + 1] = ranked(client, user)[1]
    return scores


def test_servers_keep_answering_and_each_answer_uses_one_bundle(
    world: World, new_store: Callable[[], Store], store: Store
) -> None:
    """Rankings and feedback go on during an upgrade and a rollback, on two PostgreSQL servers or one SQLite server."""
    clients = [world.serve() for _ in range(2 if store.is_postgres else 1)]
    event_counts = dict.fromkeys(("steady", "busy", "busier"), 10)
    for user, events in event_counts.items():
        teach(clients[0], user, range(events))
    answers: list[tuple[str, int, list[float]]] = []
    done = threading.Event()

    def write(user: str) -> None:
        for number in itertools.count(event_counts[user]):
            if done.is_set():
                return
            teach(clients[number % len(clients)], user, [number])
            event_counts[user] = number + 1
            # Sees its own write.
            assert ranked(clients[(number + 1) % len(clients)], user)[0] == event_counts[user]

    def read(user: str) -> None:
        for client in itertools.cycle(clients):
            if done.is_set():
                return
            answers.append((user, *ranked(client, user)))

    with ThreadPoolExecutor(5) as threads:
        tasks = [threads.submit(write, user) for user in ("busy", "busier")]
        tasks += [threads.submit(read, user) for user in event_counts]
        try:
            for bundle in (world.second, world.first):
                if bundle is world.second:
                    world.upgrade(bundle)
                else:
                    world.run("rollback")
                wait_for_bundle(*clients, bundle=bundle)
                count = len(answers)
                wait_until(lambda count=count: len(answers) > count + 20 or any(one.done() for one in tasks))
        finally:
            done.set()
        for one in tasks:
            one.result()

    assert [row["version"] for row in world.status()["activations"]] == [
        world.first.version,
        world.second.version,
        world.first.version,
    ]
    expected = [
        rank_with_one_bundle(world, new_store(), bundle, event_counts)
        for bundle in (world.first, world.second)
    ]
    answers_by_bundle = [0, 0]
    for user, version, scores in answers:
        matches = [scores == pytest.approx(one[user, version], abs=1e-6) for one in expected]
        assert sum(matches) == 1, (user, version, scores, [one[user, version] for one in expected])
        answers_by_bundle[matches.index(True)] += 1
    assert min(answers_by_bundle) > 0
    for user, events in event_counts.items():
        for client in clients:
            assert client.get(f"/v1/users/{user}").json()["feedback_events"] == events
            assert ranked(client, user)[1] == pytest.approx(expected[0][user, events], abs=1e-6)
    for bundle in (world.first, world.second):
        output = world.run("replay", "--bundle", str(save_bundle(world, bundle)))
        assert "3 users, 3 equal, 0 different" in output


def save_bundle(world: World, bundle: Bundle) -> Path:
    folder = world.folder / bundle.version
    bundle.save(folder)
    return folder


def test_an_upgrade_with_the_same_encoder_encodes_nothing(world: World) -> None:
    client = world.serve()
    teach(client, "u", range(12))
    before = ranked(client, "u")
    world.encoders[0].calls.clear()
    assert "is being prepared" in world.upgrade(world.second)
    wait_for_bundle(client, bundle=world.second)
    after = ranked(client, "u")
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert world.encoders[0].calls == []


def test_a_server_learns_users_before_it_switches(world: World, store: Store) -> None:
    client = world.serve()
    for user in "abc":
        teach(client, user, range(3))
    assert f"{world.second.version} ranks" in world.upgrade(world.second, "--wait")
    rows = store.run(
        "SELECT user_id, through_seq FROM user_states WHERE bundle_version = :version ORDER BY user_id",
        version=world.second.version,
    )
    assert rows == [("a", 3), ("b", 3), ("c", 3)]
    row = world.describe(world.second)
    assert (row["status"], row["users_done"], row["users_total"]) == ("ready", 3, 3)
    wait_for_bundle(client, bundle=world.second)
    assert client.get("/v1/users/a").json()["bundle"] == world.second.version
    assert (
        f'penchant_bundle_info{{name="tiny",version="{world.second.version}"}} 1.0'
        in client.get("/metrics").text
    )
    assert world.first.version not in client.get("/metrics").text


def test_an_upgrade_with_another_encoder_encodes_all_texts(
    world: World, new_store: Callable[[], Store]
) -> None:
    client = world.serve()
    teach(client, "u", range(12))
    output = world.upgrade(world.foreign, "--wait")
    assert "are encoded again" in output
    wait_for_bundle(client, bundle=world.foreign)
    read_again = world.encoders[1].texts
    assert "u text 0 " in read_again
    expected = rank_with_one_bundle(world, new_store(), world.foreign, {"u": 12})
    assert ranked(client, "u")[1] == pytest.approx(expected["u", 12], abs=1e-6)
    assert "1 equal, 0 different, 0 behind" in world.run(
        "replay", "--bundle", str(save_bundle(world, world.foreign))
    )
    teach(client, "u", range(12, 20))
    world.run("rollback")
    wait_for_bundle(client, bundle=world.first)
    expected = rank_with_one_bundle(world, new_store(), world.first, {"u": 20})
    assert ranked(client, "u")[1] == pytest.approx(expected["u", 20], abs=1e-6)


def test_what_says_nothing_to_another_encoder_is_told_first(world: World) -> None:
    client = world.serve()
    teach(client, "kept", range(3))
    world.run("tenants", "set", "default", "--no-keep-texts")
    wait_until(lambda: not client.app.state.runtime.access.tenancy.get("default").keep_texts)
    teach(client, "bare", range(3))
    output = world.upgrade(world.foreign, code=1)
    assert "3 of default" in output
    assert "Nothing was changed" in output
    assert [row["version"] for row in world.status()["bundles"]] == [world.first.version]
    world.upgrade(world.second, "--wait")  # both encoders give the same features, so nothing is lost
    world.upgrade(world.foreign, "--wait", "--accept-loss")
    wait_for_bundle(client, bundle=world.foreign)
    assert client.get("/v1/users/kept").json()["state"] == "personal"
    assert client.get("/v1/users/bare").json()["state"] == "population"


def test_without_a_server_the_upgrade_starts_at_the_next_start(world: World) -> None:
    teach(world.serve(), "u", range(5))
    world.stop()
    world.upgrade(world.second)
    assert world.status()["active"] == world.first.version
    client = world.serve()
    wait_for_bundle(client, bundle=world.second)
    world.stop()
    # Immediately, because the store records the active bundle.
    assert version_of(world.serve()) == world.second.version


@pytest.fixture
def background_learning(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Event that pauses background learning while it is cleared."""
    free, bring = threading.Event(), Replayer._catch_up_user

    def wait(replayer: Replayer, key: Any, state: Any = None) -> bool:
        free.wait(timeout=PATIENCE_SECONDS)
        return bring(replayer, key, state)

    monkeypatch.setattr(Replayer, "_catch_up_user", wait)
    free.set()
    yield free
    free.set()


def test_an_interrupted_upgrade_continues_after_a_restart(
    world: World, background_learning: threading.Event
) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    background_learning.clear()
    world.upgrade(world.second)
    wait_until(lambda: world.describe(world.second)["users_total"] == 4)
    assert "is being prepared" in world.run("upgrade", "--status")
    assert "penchant_upgrade_users 4.0" in client.get("/metrics").text
    assert version_of(client) == world.first.version
    threading.Timer(0.05, background_learning.set).start()
    world.stop()
    assert world.status()["active"] == world.first.version
    wait_for_bundle(world.serve(), bundle=world.second)


def test_feedback_during_an_upgrade_is_kept_after_the_switch(
    world: World, background_learning: threading.Event
) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    background_learning.clear()
    world.upgrade(world.second)
    wait_until(lambda: world.describe(world.second)["users_total"] == 4)
    teach(client, "a", range(3, 9))
    teach(client, "new", range(3))
    background_learning.set()
    wait_for_bundle(client, bundle=world.second)
    assert ranked(client, "a")[0] == 9
    assert "5 equal, 0 different" in world.run("replay", "--bundle", str(save_bundle(world, world.second)))


def test_an_upgrade_can_be_cancelled(world: World, background_learning: threading.Event) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    background_learning.clear()
    world.upgrade(world.second)
    wait_until(lambda: len(client.app.state.runtime.models.held) == 2)
    assert f"{world.first.version} still ranks" in world.run("rollback")
    assert world.describe(world.second)["message"] == "cancelled"
    background_learning.set()
    wait_until(lambda: len(client.app.state.runtime.models.held) == 1)
    assert world.status()["active"] == world.first.version
    assert version_of(client) == world.first.version
    world.upgrade(world.second, "--wait")


def test_bundles_can_be_switched_back_and_forth(world: World) -> None:
    client = world.serve(request_timeout_seconds=2.0)
    teach(client, "u", range(6))
    of_first = ranked(client, "u")[1]
    assert "no bundle to roll back to" in world.run("rollback", code=1)
    assert "already ranks" in world.upgrade(world.first, code=1)
    world.upgrade(world.second, "--wait")
    wait_for_bundle(client, bundle=world.second)
    of_second = ranked(client, "u")[1]
    world.run("rollback")
    wait_for_bundle(client, bundle=world.first)
    assert ranked(client, "u")[1] == of_first != of_second
    world.run("rollback")
    wait_for_bundle(client, bundle=world.second)
    assert ranked(client, "u")[1] == of_second
    world.run("rollback", "--to", world.first.version)
    wait_for_bundle(client, bundle=world.first)
    assert "already ranks" in world.run("rollback", "--to", world.first.version, code=1)
    assert "holds no bundle b-nothing" in world.run("rollback", "--to", "b-nothing", code=1)
    # Models that no request can still hold are freed.
    wait_until(lambda: len(client.app.state.runtime.models.held) == 1)
    assert ranked(client, "u")[1] == of_first


def test_a_request_uses_one_bundle_from_start_to_end(world: World) -> None:
    client = world.serve()
    teach(client, "u", range(6))
    of_first = ranked(client, "u")[1]
    client.app.state.runtime.models.current.describer.clear()
    client.app.state.runtime.models.current.source.cache.clear()
    encoder = world.encoders[0]
    encoder.gate.clear()
    encoder.entered.clear()
    try:
        with ThreadPoolExecutor(1) as threads:
            under_way = threads.submit(ranked, client, "u")
            assert encoder.entered.wait(PATIENCE_SECONDS)
            world.upgrade(world.second, "--wait")
            wait_for_bundle(client, bundle=world.second)
            encoder.gate.set()
            assert under_way.result()[1] == of_first
    finally:
        encoder.gate.set()
    assert ranked(client, "u")[1] != of_first


def test_a_pinned_server_does_not_follow(world: World) -> None:
    folder = save_bundle(world, world.third)
    client = world.serve(bundle=folder)
    assert version_of(client) == world.third.version
    output = world.upgrade(world.second, code=1, PENCHANT_BUNDLE=str(folder))
    assert "pins the servers' bundle" in output
    assert "pins" in world.run("rollback", code=1, PENCHANT_BUNDLE=str(folder))
    world.upgrade(world.second, "--force", PENCHANT_BUNDLE=str(folder))
    client.app.state.runtime.feed.poll()
    assert client.app.state.runtime.upgrades._check_store() is None
    assert version_of(client) == world.third.version
    world.stop()
    wait_for_bundle(world.serve(), bundle=world.second)  # no longer pinned


def test_a_bundle_that_cannot_be_loaded_ends_its_upgrade(world: World) -> None:
    client = world.serve()
    strange = tiny_bundle(FeatureExtractor(WatchedEncoder(dim=16)))
    assert "failed: The encoder cannot be loaded" in world.upgrade(strange, "--wait", code=1)
    assert "failed: " in world.run("upgrade", "--status")
    assert version_of(client) == world.first.version
    assert client.get("/readyz").status_code == 200
    folder = save_bundle(world, world.second)
    (folder / "model.safetensors").write_bytes(b"something else")
    assert "weights have sha256" in world.run("upgrade", str(folder), code=2)
    assert "name the folder of a bundle" in world.run("upgrade", code=2)


def test_users_who_cannot_be_learned_stop_an_upgrade(world: World, store: Store) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    store.run("UPDATE feedback_events SET type = 'unheard of' WHERE user_id IN ('a', 'b') AND seq = 1")
    assert "2 of 4 users cannot be learned" in world.upgrade(world.second, "--wait", code=1)
    assert version_of(client) == world.first.version


def test_a_newer_upgrade_replaces_an_older_one(world: World) -> None:
    teach(world.serve(), "u", range(3))
    world.stop()
    world.upgrade(world.second)
    world.upgrade(world.third)
    assert world.describe(world.second)["message"] == f"replaced by {world.third.version}"
    wait_for_bundle(world.serve(), bundle=world.third)


def test_superseded_bundles_are_removed(world: World, store: Store) -> None:
    client = world.serve()
    teach(client, "u", range(3))
    for bundle in (world.second, world.third):
        world.upgrade(bundle, "--wait")
        wait_for_bundle(client, bundle=bundle)
    expected = {world.second.version, world.third.version}
    assert {version for (version,) in store.run("SELECT bundle_version FROM user_states")} > expected
    world.clock.now += 700
    teach(client, "u", [3])
    wait_until(lambda: {v for (v,) in store.run("SELECT bundle_version FROM user_states")} == expected)
    wait_until(lambda: {v for (v,) in store.run("SELECT bundle_version FROM bundles")} == expected)
    world.run("rollback")
    wait_for_bundle(client, bundle=world.second)
    assert "holds no bundle" in world.run("rollback", "--to", world.first.version, code=1)


def test_one_server_learns_for_all_servers(world: World, store: Store) -> None:
    if not store.is_postgres:  # a SQLite file is served by one server
        assert world.serve().get("/readyz").status_code == 200
        return
    clients = [world.serve() for _ in range(2)]
    for user in "abcd":
        teach(clients[0], user, range(3))
    saved: list[int] = []

    def count(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "INTO user_states" in statement and world.second.version in str(parameters):
            saved.append(1)

    for client in clients:
        event.listen(client.app.state.runtime.store._writer, "before_cursor_execute", count)
    world.upgrade(world.second, "--wait")
    wait_for_bundle(*clients, bundle=world.second)
    assert len(saved) == 4
    assert ranked(clients[0], "a") == ranked(clients[1], "a")


def test_commands_use_the_active_bundle(world: World) -> None:
    teach(world.serve(), "u", range(3))
    assert f"{world.first.version}: 1 users, 1 equal" in world.run("replay")
    world.upgrade(world.second, "--wait")
    assert f"{world.second.version}: 1 users, 1 equal" in world.run("replay")
    assert world.store is not None
    settings = Settings(**world.store.place)
    facts = inspect_store(settings)
    assert facts is not None
    finding = next(check_model(settings, facts.active, facts.bundle))
    assert (finding.status, world.second.version in finding.detail) == ("ok", True)
    damaged = next(check_model(settings, b"no tar"))
    assert (damaged.status, "penchant rollback" in damaged.advice) == ("failed", True)


def test_a_backup_contains_its_bundles(world: World, fresh: Store, tmp_path: Path) -> None:
    """Restoring also works on a store on which a server has already started."""
    client = world.serve()
    teach(client, "u", range(3))
    world.upgrade(world.second, "--wait")
    wait_for_bundle(client, bundle=world.second)
    before = ranked(client, "u")
    world.run("backup", str(tmp_path / "backup"))
    world.stop()
    world.store = fresh
    world.serve()
    world.stop()
    world.run("restore", str(tmp_path / "backup"))
    client = world.serve()
    assert (version_of(client), ranked(client, "u")) == (world.second.version, before)
    world.run("rollback")
    wait_for_bundle(client, bundle=world.first)
