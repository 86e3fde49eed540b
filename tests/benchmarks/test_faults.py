"""Each part of the faults benchmark on a small scale, and the detection of planted faults."""

import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks.faults import __main__ as command
from benchmarks.faults.audit import Audit, Replay, read_back
from benchmarks.faults.crashes import USERS, clock, database, disk, kill
from benchmarks.faults.events import KINDS, Author
from benchmarks.faults.load import Ledger
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.report import markdown
from benchmarks.faults.server import OFFSETS, jumping
from benchmarks.faults.sharing import replicas
from benchmarks.faults.slowness import slow
from benchmarks.faults.stores import Cluster, Store, new_store, postgresql
from penchant.service.settings import Settings

slow_test = pytest.mark.slow
CLEAN = Audit(acknowledged=3, found=4, duplicated=0, lost=0, unacknowledged=1, strange=0, miscounted=0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request) -> Iterator[Store]:
    cluster = request.getfixturevalue("cluster") if request.param == "postgresql" else None
    with new_store(request.param, cluster) as made:
        yield made


@pytest.fixture
def shared(cluster) -> Iterator[Store]:
    with new_store("postgresql", cluster) as made:
        yield made


def check(outcome):
    assert outcome.faults == []
    assert outcome.audit.acknowledged > 0
    assert outcome.audit.lost == outcome.audit.duplicated == 0
    assert outcome.audit.found == outcome.audit.acknowledged + outcome.audit.unacknowledged
    assert sum(replay.users for replay in outcome.replays) > 0
    assert max(replay.largest for replay in outcome.replays) <= 1e-6


@slow_test
def test_kills_lose_and_duplicate_nothing(store):
    outcome = kill(store, rounds=2, seed=1)
    check(outcome)
    assert outcome.figures["answers"]["none"] >= 2  # the kills were noticed


@slow_test
def test_a_jumping_clock_loses_nothing(store):
    check(clock(store, rounds=2, seed=2))


@slow_test
def test_restarts_of_the_database_lose_nothing(shared):
    outcome = database(shared, rounds=2, seed=3)
    check(outcome)
    assert outcome.figures["recovery_seconds_max"] < 30


@slow_test
def test_replicas_count_exactly_and_read_what_was_written(shared):
    outcome = replicas(shared, seconds=2, writers=8)
    check(outcome)
    assert outcome.figures["reads_on_the_other_replica"] > 0
    assert outcome.figures["stale_reads"] == 0


@slow_test
@pytest.mark.parametrize("mountable", [True, False])
def test_writes_are_refused_on_a_full_disk_and_resume_with_free_space(monkeypatch, mountable):
    if not mountable:
        monkeypatch.setattr("benchmarks.faults.stores.os.geteuid", lambda: 1000)
    with new_store("sqlite") as store:
        outcome = disk(store, rounds=2, seed=4)
    check(outcome)
    assert outcome.figures["answers"]["503"] > 0


@slow_test
def test_slow_clients_are_refused_and_others_served(store):
    outcome = slow(store, clients=10)
    assert outcome.faults == []
    assert outcome.figures["refused_after_their_time"] == 5


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"lost": 1}, "lost=1"), ({"duplicated": 1}, "duplicated=1"), ({"strange": 1}, "strange=1")],
)
def test_lost_or_duplicated_events_are_a_fault(change, fault):
    outcome = Outcome("kill", "sqlite", 1)
    outcome.check(CLEAN, "first")
    assert outcome.faults == []
    outcome.check(replace(CLEAN, **change), "second")
    assert len(outcome.faults) == 1
    assert fault in outcome.faults[0]
    assert "| no |" in markdown(about(), [outcome])


def test_a_state_that_differs_is_a_fault():
    outcome = Outcome("kill", "sqlite", 1)
    outcome.compare(Replay(users=2, different=0, behind=1, largest=1e-9), "first")
    assert outcome.faults == []
    outcome.compare(Replay(users=2, different=1, behind=0, largest=0.5), "second")
    assert "different=1" in outcome.faults[0]


def test_the_audit_finds_lost_duplicated_and_foreign_events():
    """The log is made up: two pages of one user's events, with one event twice and one of another user."""
    pages = {None: (["a", "b"], "next"), "next": (["b", "x"], None)}

    def answer(request):
        if request.url.path.endswith("/feedback"):
            data, cursor = pages[request.url.params.get("cursor")]
            return httpx.Response(200, json={"data": [{"event_id": e} for e in data], "next_cursor": cursor})
        return httpx.Response(200, json={"feedback_events": 3})

    ledger = Ledger(sent={"a": "u", "b": "u", "x": "somebody else", "c": "u"}, acknowledged={"a", "c"})
    with httpx.Client(base_url="http://x", transport=httpx.MockTransport(answer)) as client:
        found = read_back(client, ledger, ["u"])
    assert found == Audit(
        acknowledged=2, found=4, duplicated=1, lost=1, unacknowledged=2, strange=1, miscounted=1
    )
    assert not found.is_clean


def test_authors_send_every_kind_and_retract_acknowledged_events():
    author = Author("a", USERS, seed=0)
    sent = []
    for _ in range(100):
        request = author.request()
        sent += request.events
        author.learned(request)
    assert {event["type"] for event in sent} == set(KINDS)
    ids = [event["event_id"] for event in sent]
    assert len(set(ids)) == len(ids)
    by_id = {event["event_id"]: event for event in sent}
    targets = [event for event in sent if event["type"] == "retract"]
    assert len({event["target_event_id"] for event in targets}) == len(targets) > 0
    assert all(by_id[event["target_event_id"]]["user"] == event["user"] for event in targets)


def test_a_jumping_clock_jumps(monkeypatch):
    times = iter((0.0, 0.6, 1.1, 1.6))
    monkeypatch.setattr("benchmarks.faults.server.time.monotonic", lambda: next(times))
    monkeypatch.setattr("benchmarks.faults.server.time.time", lambda: 1000.0)
    clock = jumping(0.5)
    offsets = [clock() - 1000.0 for _ in range(4)]
    assert offsets == list(OFFSETS[:4])


def about():
    return {"cores": 2, "processor": "p", "commit": "c", "versions": {}}


@slow_test
def test_the_command_writes_its_results(tmp_path):
    out = tmp_path / "faults"
    options = ["--rounds", "1", "--stores", "sqlite", "--parts", "kill,database", "--out", str(out)]
    import typer

    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    [part] = json.loads(out.with_suffix(".json").read_text())["parts"]
    assert part["part"] == "kill"
    assert part["audit"]["lost"] == 0
    assert "| kill | sqlite | 1 |" in out.with_suffix(".md").read_text()


def test_an_unknown_part_is_refused(tmp_path):
    import typer

    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, ["--parts", "flood", "--out", str(tmp_path / "faults")])
    assert done.exit_code == 2
    assert "Unknown: flood. Choose from kill" in done.output


def test_stores_pass_their_settings_to_the_servers(tmp_path):
    store = Store("postgresql", tmp_path, "postgresql://postgres@/faults?host=/tmp")
    environment = store.launcher().environment
    settings = store.settings()
    assert environment["PENCHANT_STORE_URL"] == settings.store_url.get_secret_value()
    assert float(environment["PENCHANT_FORGETTING_HALF_LIFE_DAYS"]) == settings.forgetting_half_life_days
    assert {name.removeprefix("PENCHANT_").lower() for name in environment} <= set(Settings.model_fields)
