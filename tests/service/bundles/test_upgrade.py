"""From one bundle to the next, and back, while answers keep coming."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import event
from starlette.testclient import TestClient
from typer.testing import CliRunner

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.testing import tiny_bundle
from penchant.service.app import create_app
from penchant.service.bundles.loading import StartError
from penchant.service.cli.app import app
from penchant.service.doctor.model import check_model
from penchant.service.settings import Settings
from penchant.service.store.inspection import look_at
from penchant.service.users.replayer import Replayer

from ..conftest import Clock, Store, WatchedEncoder

DOCUMENTS = ["boat sea", "tree house", "many words " * 20]
PATIENCE_SECONDS = 60


def wait_until(what: Callable[[], Any]) -> Any:
    """What `what` gives once that is something: the server's threads work by themselves."""
    deadline, tick = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        tick.wait(0.01)
    return found


@dataclass
class World:
    """Servers on one store, which rank with `first` until they are told otherwise; two encoders; three bundles."""

    folder: Path
    clock: Clock
    stack: ExitStack
    encoders: tuple[WatchedEncoder, WatchedEncoder] = field(
        default_factory=lambda: (WatchedEncoder(), WatchedEncoder(dim=32))
    )
    store: Store | None = None

    def __post_init__(self) -> None:
        self.extractors = [FeatureExtractor(encoder) for encoder in self.encoders]
        self.first, self.second, self.third = (
            tiny_bundle(self.extractors[0], seed=seed) for seed in range(3)
        )
        self.foreign = tiny_bundle(self.extractors[1], seed=4)

    def extractor_of(self, bundle: Bundle) -> FeatureExtractor:
        for extractor in self.extractors:
            if extractor.identity == bundle.manifest.encoder.features:
                return extractor
        raise StartError("The encoder cannot be loaded: it is not here")

    def serve(self, store: Store | None = None, pinned: Bundle | None = None, **changes: Any) -> TestClient:
        store = store or self.store
        assert store is not None
        settings = Settings(**store.place, change_poll_seconds=0.02)
        server = create_app(
            settings.model_copy(update=changes),
            bundle=pinned,
            shipped=self.first,
            extractor_loader=self.extractor_of,
            clock=self.clock,
        )
        return self.stack.enter_context(TestClient(server, raise_server_exceptions=False))

    def stop(self) -> None:
        self.stack.close()

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What a command prints on either stream."""
        assert self.store is not None
        url = self.store.place.get("store_url")
        at = (
            ("--data-dir", str(self.store.place["data_dir"]))
            if url is None
            else ("--store-url", url.get_secret_value())
        )
        found: Result = CliRunner(env={"COLUMNS": "300", **environment}).invoke(app, [*arguments, *at])
        assert found.exit_code == code, (found.output, found.exception)
        return found.output

    def upgrade(self, bundle: Bundle, *arguments: str, code: int = 0, **environment: str) -> str:
        folder = self.folder / bundle.version
        bundle.save(folder)
        return self.run("upgrade", str(folder), *arguments, code=code, **environment)

    def standing(self, bundle: Bundle) -> dict[str, Any]:
        """What is told of one bundle."""
        (found,) = [one for one in self.status()["bundles"] if one["version"] == bundle.version]
        return dict(found)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("upgrade", "--status", "--json"))
        return found


@pytest.fixture
def world(store: Store, tmp_path: Path, clock: Clock, logs: list[Any]) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path / "bundles", clock, stack, store=store)


def version_of(client: TestClient) -> str:
    return str(client.get("/v1/models").json()["data"][0]["bundle_version"])


def ranks_with(*clients: TestClient, bundle: Bundle) -> None:
    wait_until(lambda: all(version_of(client) == bundle.version for client in clients))


def judgement(user: str, number: int) -> dict[str, Any]:
    """The n-th event of a user: of every kind some, a retraction among them."""
    texts = [f"{user} text {number % 7} " + "x " * (number % 5), f"other {number % 3}"]
    match number % 5:
        case 0:
            said: dict[str, Any] = {"type": "vote", "text": texts[0], "value": 1 if number % 2 else -1}
        case 1 | 2:
            said = {"type": "preference", "chosen": texts[0], "rejected": texts[1]}
        case 3:
            said = {"type": "rating", "text": texts[1], "value": number % 4, "scale": [0, 4]}
        case _:
            said = {"type": "retract", "target_event_id": f"{user}-{number - 1}"}
    return {"user": user, "event_id": f"{user}-{number}", **said}


def teach(client: TestClient, user: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        answer = client.post("/v1/feedback", json=judgement(user, number))
        assert answer.status_code == 200, answer.text


def ranked(client: TestClient, user: str) -> tuple[int, list[float]]:
    """(posterior version, scores in the order of the documents)."""
    answer = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "user": user})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    scores = {result["index"]: result["relevance_score"] for result in body["results"]}
    return body["meta"]["personalization"]["posterior_version"], [scores[i] for i in range(len(DOCUMENTS))]


def taught_alone(world: World, store: Store, bundle: Bundle, told: dict[str, int]) -> dict[Any, list[float]]:
    """What a server that knows one bundle alone says of users after each of their events."""
    client = world.serve(store, pinned=bundle)
    found: dict[Any, list[float]] = {}
    for user, events in told.items():
        for number in range(events):
            teach(client, user, [number])
            found[user, number + 1] = ranked(client, user)[1]
    return found


def test_answers_keep_coming_and_each_is_of_one_bundle(
    world: World, new_store: Callable[[], Store], store: Store
) -> None:
    """Two servers on PostgreSQL, one on SQLite; rankings and feedback all the way through an upgrade and a rollback."""
    clients = [world.serve() for _ in range(2 if store.is_postgres else 1)]
    told = dict.fromkeys(("steady", "busy", "busier"), 10)
    for user, events in told.items():
        teach(clients[0], user, range(events))
    answers: list[tuple[str, int, list[float]]] = []
    done = threading.Event()

    def write(user: str) -> None:
        for number in itertools.count(told[user]):
            if done.is_set():
                return
            teach(clients[number % len(clients)], user, [number])
            told[user] = number + 1
            assert ranked(clients[(number + 1) % len(clients)], user)[0] == told[user]  # its own writes

    def read(user: str) -> None:
        for client in itertools.cycle(clients):
            if done.is_set():
                return
            answers.append((user, *ranked(client, user)))

    with ThreadPoolExecutor(5) as threads:
        working = [threads.submit(write, user) for user in ("busy", "busier")]
        working += [threads.submit(read, user) for user in told]
        try:
            for bundle in (world.second, world.first):
                if bundle is world.second:
                    world.upgrade(bundle)
                else:
                    world.run("rollback")
                ranks_with(*clients, bundle=bundle)
                seen = len(answers)
                wait_until(lambda seen=seen: len(answers) > seen + 20 or any(one.done() for one in working))
        finally:
            done.set()
        for one in working:
            one.result()

    assert [row["version"] for row in world.status()["activations"]] == [
        world.first.version,
        world.second.version,
        world.first.version,
    ]
    expected = [taught_alone(world, new_store(), bundle, told) for bundle in (world.first, world.second)]
    of_bundle = [0, 0]
    for user, version, scores in answers:
        fits = [scores == pytest.approx(one[user, version], abs=1e-6) for one in expected]
        assert sum(fits) == 1, (user, version, scores, [one[user, version] for one in expected])
        of_bundle[fits.index(True)] += 1
    assert min(of_bundle) > 0
    for user, events in told.items():
        for client in clients:
            assert client.get(f"/v1/users/{user}").json()["feedback_events"] == events
            assert ranked(client, user)[1] == pytest.approx(expected[0][user, events], abs=1e-6)
    for bundle in (world.first, world.second):
        told_of = world.run("replay", "--bundle", str(_saved(world, bundle)))
        assert "3 users, 3 equal, 0 different" in told_of


def _saved(world: World, bundle: Bundle) -> Path:
    folder = world.folder / bundle.version
    bundle.save(folder)
    return folder


def test_nothing_is_encoded_again_for_the_same_encoder(world: World) -> None:
    client = world.serve()
    teach(client, "u", range(12))
    before = ranked(client, "u")
    world.encoders[0].calls.clear()
    assert "is made ready" in world.upgrade(world.second)
    ranks_with(client, bundle=world.second)
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
    found = world.standing(world.second)
    assert (found["status"], found["users_done"], found["users_total"]) == ("ready", 3, 3)
    ranks_with(client, bundle=world.second)
    assert client.get("/v1/users/a").json()["bundle"] == world.second.version
    assert (
        f'penchant_bundle_info{{name="tiny",version="{world.second.version}"}} 1.0'
        in client.get("/metrics").text
    )
    assert world.first.version not in client.get("/metrics").text


def test_another_encoder_reads_all_texts_again(world: World, new_store: Callable[[], Store]) -> None:
    client = world.serve()
    teach(client, "u", range(12))
    told = world.upgrade(world.foreign, "--wait")
    assert "are encoded again" in told
    ranks_with(client, bundle=world.foreign)
    read_again = world.encoders[1].texts
    assert "u text 0 " in read_again
    expected = taught_alone(world, new_store(), world.foreign, {"u": 12})
    assert ranked(client, "u")[1] == pytest.approx(expected["u", 12], abs=1e-6)
    assert "1 equal, 0 different, 0 behind" in world.run(
        "replay", "--bundle", str(_saved(world, world.foreign))
    )
    teach(client, "u", range(12, 20))
    world.run("rollback")
    ranks_with(client, bundle=world.first)
    expected = taught_alone(world, new_store(), world.first, {"u": 20})
    assert ranked(client, "u")[1] == pytest.approx(expected["u", 20], abs=1e-6)


def test_what_says_nothing_to_another_encoder_is_told_first(world: World) -> None:
    client = world.serve()
    teach(client, "kept", range(3))
    world.run("tenants", "set", "default", "--no-keep-texts")
    wait_until(lambda: not client.app.state.runtime.access.tenancy.get("default").keep_texts)
    teach(client, "bare", range(3))
    told = world.upgrade(world.foreign, code=1)
    assert "3 of default" in told
    assert "Nothing was changed" in told
    assert [one["version"] for one in world.status()["bundles"]] == [world.first.version]
    world.upgrade(world.second, "--wait")  # the same features: nothing is lost
    world.upgrade(world.foreign, "--wait", "--accept-loss")
    ranks_with(client, bundle=world.foreign)
    assert client.get("/v1/users/kept").json()["state"] == "personal"
    assert client.get("/v1/users/bare").json()["state"] == "population"


def test_it_begins_with_the_next_start_where_no_server_runs(world: World) -> None:
    teach(world.serve(), "u", range(5))
    world.stop()
    world.upgrade(world.second)
    assert world.status()["active"] == world.first.version
    client = world.serve()
    ranks_with(client, bundle=world.second)
    world.stop()
    assert version_of(world.serve()) == world.second.version  # at once: the store says so


@pytest.fixture
def free_to_learn(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is cleared, nobody is learned in the background."""
    free, bring = threading.Event(), Replayer._bring

    def wait(replayer: Replayer, key: Any, found: Any = None) -> bool:
        free.wait(timeout=PATIENCE_SECONDS)
        return bring(replayer, key, found)

    monkeypatch.setattr(Replayer, "_bring", wait)
    free.set()
    yield free
    free.set()


def test_interrupted_work_goes_on_after_a_restart(world: World, free_to_learn: threading.Event) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    free_to_learn.clear()
    world.upgrade(world.second)
    wait_until(lambda: world.standing(world.second)["users_total"] == 4)
    assert "is made ready" in world.run("upgrade", "--status")
    assert "penchant_upgrade_users 4.0" in client.get("/metrics").text
    assert version_of(client) == world.first.version
    threading.Timer(0.05, free_to_learn.set).start()
    world.stop()
    assert world.status()["active"] == world.first.version
    ranks_with(world.serve(), bundle=world.second)


def test_what_is_told_meanwhile_is_known_after_the_switch(
    world: World, free_to_learn: threading.Event
) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    free_to_learn.clear()
    world.upgrade(world.second)
    wait_until(lambda: world.standing(world.second)["users_total"] == 4)
    teach(client, "a", range(3, 9))
    teach(client, "new", range(3))
    free_to_learn.set()
    ranks_with(client, bundle=world.second)
    assert ranked(client, "a")[0] == 9
    assert "5 equal, 0 different" in world.run("replay", "--bundle", str(_saved(world, world.second)))


def test_an_upgrade_can_be_called_off(world: World, free_to_learn: threading.Event) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    free_to_learn.clear()
    world.upgrade(world.second)
    wait_until(lambda: len(client.app.state.runtime.models.held) == 2)
    assert f"{world.first.version} goes on ranking" in world.run("rollback")
    assert world.standing(world.second)["message"] == "called off"
    free_to_learn.set()
    wait_until(lambda: len(client.app.state.runtime.models.held) == 1)
    assert world.status()["active"] == world.first.version
    assert version_of(client) == world.first.version
    world.upgrade(world.second, "--wait")


def test_back_and_forth(world: World) -> None:
    client = world.serve(request_timeout_seconds=2.0)
    teach(client, "u", range(6))
    of_first = ranked(client, "u")[1]
    assert "no bundle to go back to" in world.run("rollback", code=1)
    assert "ranks already" in world.upgrade(world.first, code=1)
    world.upgrade(world.second, "--wait")
    ranks_with(client, bundle=world.second)
    of_second = ranked(client, "u")[1]
    world.run("rollback")
    ranks_with(client, bundle=world.first)
    assert ranked(client, "u")[1] == of_first != of_second
    world.run("rollback")
    ranks_with(client, bundle=world.second)
    assert ranked(client, "u")[1] == of_second
    world.run("rollback", "--to", world.first.version)
    ranks_with(client, bundle=world.first)
    assert "ranks already" in world.run("rollback", "--to", world.first.version, code=1)
    assert "holds no bundle b-nothing" in world.run("rollback", "--to", "b-nothing", code=1)
    # Those that no request can hold any more are freed.
    wait_until(lambda: len(client.app.state.runtime.models.held) == 1)
    assert ranked(client, "u")[1] == of_first


def test_a_request_ends_with_the_bundle_with_which_it_began(world: World) -> None:
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
            ranks_with(client, bundle=world.second)
            encoder.gate.set()
            assert under_way.result()[1] == of_first
    finally:
        encoder.gate.set()
    assert ranked(client, "u")[1] != of_first


def test_a_pinned_server_does_not_follow(world: World) -> None:
    folder = _saved(world, world.third)
    client = world.serve(bundle=folder)
    assert version_of(client) == world.third.version
    told = world.upgrade(world.second, code=1, PENCHANT_BUNDLE=str(folder))
    assert "pins what servers rank with" in told
    assert "pins" in world.run("rollback", code=1, PENCHANT_BUNDLE=str(folder))
    world.upgrade(world.second, "--force", PENCHANT_BUNDLE=str(folder))
    client.app.state.runtime.feed.poll()
    assert client.app.state.runtime.upgrades._look() is None
    assert version_of(client) == world.third.version
    world.stop()
    ranks_with(world.serve(), bundle=world.second)  # no longer pinned


def test_what_cannot_be_loaded_is_given_up(world: World) -> None:
    client = world.serve()
    strange = tiny_bundle(FeatureExtractor(WatchedEncoder(dim=16)))
    assert "was given up: The encoder cannot be loaded" in world.upgrade(strange, "--wait", code=1)
    assert "given up" in world.run("upgrade", "--status")
    assert version_of(client) == world.first.version
    assert client.get("/readyz").status_code == 200
    folder = _saved(world, world.second)
    (folder / "model.safetensors").write_bytes(b"something else")
    assert "weights have sha256" in world.run("upgrade", str(folder), code=2)
    assert "which bundle?" in world.run("upgrade", code=2)


def test_users_who_cannot_be_learned_stop_an_upgrade(world: World, store: Store) -> None:
    client = world.serve()
    for user in "abcd":
        teach(client, user, range(3))
    store.run("UPDATE feedback_events SET type = 'unheard of' WHERE user_id IN ('a', 'b') AND seq = 1")
    assert "2 of 4 users cannot be learned" in world.upgrade(world.second, "--wait", code=1)
    assert version_of(client) == world.first.version


def test_the_newest_upgrade_counts(world: World) -> None:
    teach(world.serve(), "u", range(3))
    world.stop()
    world.upgrade(world.second)
    world.upgrade(world.third)
    assert world.standing(world.second)["message"] == f"{world.third.version} came in its place"
    ranks_with(world.serve(), bundle=world.third)


def test_bundles_of_old_are_left_behind(world: World, store: Store) -> None:
    client = world.serve()
    teach(client, "u", range(3))
    for bundle in (world.second, world.third):
        world.upgrade(bundle, "--wait")
        ranks_with(client, bundle=bundle)
    kept = {world.second.version, world.third.version}
    assert {version for (version,) in store.run("SELECT bundle_version FROM user_states")} > kept
    world.clock.now += 700
    teach(client, "u", [3])
    wait_until(lambda: {v for (v,) in store.run("SELECT bundle_version FROM user_states")} == kept)
    wait_until(lambda: {v for (v,) in store.run("SELECT bundle_version FROM bundles")} == kept)
    world.run("rollback")
    ranks_with(client, bundle=world.second)
    assert "holds no bundle" in world.run("rollback", "--to", world.first.version, code=1)


def test_one_server_learns_for_all(world: World, store: Store) -> None:
    if not store.is_postgres:  # a SQLite file has one server
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
    ranks_with(*clients, bundle=world.second)
    assert len(saved) == 4
    assert ranked(clients[0], "a") == ranked(clients[1], "a")


def test_commands_use_the_bundle_that_ranks(world: World) -> None:
    teach(world.serve(), "u", range(3))
    assert f"{world.first.version}: 1 users, 1 equal" in world.run("replay")
    world.upgrade(world.second, "--wait")
    assert f"{world.second.version}: 1 users, 1 equal" in world.run("replay")
    assert world.store is not None
    settings = Settings(**world.store.place)
    facts = look_at(settings)
    assert facts is not None
    found = next(check_model(settings, facts.bundle))
    assert (found.status, world.second.version in found.detail) == ("ok", True)
    damaged = next(check_model(settings, b"no tar"))
    assert (damaged.status, "penchant rollback" in damaged.advice) == ("failed", True)


def test_a_backup_brings_its_bundles_along(world: World, fresh: Store, tmp_path: Path) -> None:
    """Also to a store on which a server was started once."""
    client = world.serve()
    teach(client, "u", range(3))
    world.upgrade(world.second, "--wait")
    ranks_with(client, bundle=world.second)
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
    ranks_with(client, bundle=world.first)
