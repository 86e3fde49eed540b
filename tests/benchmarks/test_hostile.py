"""The part *hostile* of the faults benchmark on a small scale, and the detection of planted faults."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.faults.hostile import cases, memory
from benchmarks.faults.hostile.cases import Case, Sizes
from benchmarks.faults.hostile.innocent import Experience, spread_waits
from benchmarks.faults.hostile.part import hostile
from benchmarks.faults.hostile.sending import Request
from benchmarks.faults.outcome import Beside, Outcome
from benchmarks.faults.report import markdown
from benchmarks.faults.stores import new_store, postgresql

slow_test = pytest.mark.slow

SMALL = Sizes(
    rankings=40,
    pace_seconds=0.002,
    body_mb=(0.2,),
    users=2000,
    texts=100,
    large_events=3,
    large_event_mb=1.0,
    header_mb=2.0,
    header_lines=20_000,
    connections=40,
    first_byte_seconds=0.5,
    log_events=200,
    stored_answers=500,
    deletions=5,
    store_timeout_seconds=0.5,
    shutdown_seconds=1,
)
ROW = Beside("flood", 1000, 2.0, 20.0, 30.0, 40.0, 5.0, 0.1, {"413": 9})


@slow_test
def test_an_innocent_client_is_served_beside_every_attack():
    """Every attack is answered as it should be, and the innocent client always gets its ranking, in time."""
    with new_store("sqlite") as store:
        outcome = hostile(store, SMALL, one_server=True)
    assert outcome.faults == []
    assert len(outcome.beside) == 31
    assert all(row.rankings >= SMALL.rankings for row in outcome.beside)


@slow_test
def test_a_server_heals_and_stops_while_postgresql_hangs():
    with postgresql() as cluster, new_store("postgresql", cluster) as store:
        outcome = hostile(store, SMALL, ["hanging"])
    assert outcome.faults == []
    assert outcome.figures["healed_seconds_after_lost_requests"] >= SMALL.store_timeout_seconds
    assert outcome.figures["stopped_seconds"] > 0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"p99_ms": 251.0}, "p99 is 251.0 ms"),
        ({"memory_above_mb": 65.0}, "peak memory is 65.0 MB above"),
        ({"longest_vote_ms": 1001.0}, "a vote took 1001.0 ms"),
        ({"answers": {"413": 8, "500": 1}}, "the attack was answered {'500': 1}"),
    ],
)
def test_what_an_attack_may_not_do_is_a_fault(change, fault):
    case = Case("flood", lambda _: Counter(), {"413"}, Request("GET", "/"))
    served = Experience(answers=Counter({"200": 1000}))
    assert cases._find_faults(case, ROW, served) == []
    [found] = cases._find_faults(case, replace(ROW, **change), served)
    assert fault in found
    refused = Experience(answers=Counter({"200": 999, "0": 1}))
    assert cases._find_faults(case, ROW, refused) == ["an innocent client was answered {'0': 1}"]


def test_faults_beside_an_attack_are_faults_of_the_part():
    outcome = Outcome("hostile", "sqlite", 1)
    outcome.attack(replace(ROW, faults=["p99 is 251.0 ms"]))
    outcome.attack(replace(ROW, case="drip", longest_vote_ms=None))
    assert outcome.faults == ["flood: p99 is 251.0 ms"]
    written = markdown({"cores": 2, "processor": "p", "commit": "c", "versions": {}}, [outcome])
    assert "| flood | 0.1 | 413: 9 | 1,000 | 2.0 | 20.0 | 30.0 | 40.0 | +5.0 | no |" in written
    assert "| drip | 0.1 | 413: 9 | 1,000 | 2.0 | 20.0 | 30.0 |  | +5.0 | yes |" in written


def test_a_long_wait_counts_for_the_requests_that_it_kept_from_being_sent():
    assert spread_waits([0.1, 1.0, 0.1], pace_seconds=0.25) == pytest.approx([0.1, 0.1, 0.25, 0.5, 0.75, 1.0])


def test_an_attack_is_repeated_until_the_innocent_client_has_its_rankings(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(cases.time, "monotonic", lambda: float(next(clock)))
    case = Case("flood", lambda _: Counter({"413": 1}), {"413"}, Request("GET", "/"))
    assert cases._attack(case, None, enough_seconds=3.0) == (Counter({"413": 3}), pytest.approx(4 / 3))
    assert cases._attack(replace(case, repeats=False), None, enough_seconds=3.0)[0] == Counter({"413": 1})


@pytest.mark.parametrize("permitted", [True, False])
def test_the_peak_memory_of_a_process_is_measured_anew(monkeypatch, permitted):
    if not permitted:

        def refuse(*_):
            raise PermissionError

        monkeypatch.setattr(memory.Path, "write_text", refuse)
    script = "import sys\nfor line in sys.stdin:\n  x = b'x' * int(line); del x; print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def use(mb):
            with memory.peak_of(process.pid) as peak:
                process.stdin.write(f"{mb * 2**20}\n")
                process.stdin.flush()
                process.stdout.readline()
            return peak.mb

        used = [use(mb) for mb in (0, 200, 0)]
        process.stdin.close()
    assert used[1] - used[0] == pytest.approx(200, abs=20) if permitted else used[1] >= used[0] > 0
    assert used[2] - used[0] < 20
