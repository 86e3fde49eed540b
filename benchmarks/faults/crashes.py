"""Faults that stop a server or a database, fill its disk, or turn its clock, while clients send feedback."""

import statistics
import threading
import time
from random import Random
from typing import Final

from benchmarks.faults.audit import learn_again, read_back
from benchmarks.faults.load import Load
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.processes import Server
from benchmarks.faults.stores import Store, enlarge, small_disk

CLIENTS: Final = 6
USERS: Final = [f"user {n}" for n in range(7)] + ["ünïcode/50%"]
_REPLAY_EVERY: Final = 10
_ROUND_EVENTS: Final = (10, 80)
_RECOVERY_SECONDS: Final = 30.0
_CLOCK_SECONDS: Final = "0.3"
_DISK: Final = "1536k"
_MORE_DISK: Final = "64m"
_PAGES: Final = 120


def kill(store: Store, rounds: int, seed: int = 0, **environment: str) -> Outcome:
    """Kill the server (SIGKILL) at random moments under load, and start another one on the data that it left.

    After every tenth kill, the states are compared with the log as the server left them.
    """
    return _killed(Outcome("kill", store.kind, rounds), store, seed, environment)


def clock(store: Store, rounds: int, seed: int = 0) -> Outcome:
    """Run `kill` with servers whose clock jumps three times a second, by hours and by a year, and back."""
    told = {"FAULTS_CLOCK_JUMPS": _CLOCK_SECONDS}
    return _killed(Outcome("clock", store.kind, rounds), store, seed, told)


def database(store: Store, rounds: int, seed: int = 0) -> Outcome:
    """Restart PostgreSQL under load while the server keeps running (`pg_ctl restart -m immediate`, which is a crash)."""
    outcome = Outcome("database", store.kind, rounds)
    if store.cluster is None:
        raise ValueError("this part needs PostgreSQL")
    random, load = Random(seed), Load(CLIENTS, USERS, seed)  # noqa: S311 - no secret
    recoveries = []
    with store.launcher().serving() as server, server.client() as client:
        for number in range(rounds):
            with load.sending([server.url], patient=True):
                load.wait_for(random.randint(*_ROUND_EVENTS))
                store.cluster.control("restart", "-m", "immediate")
                began = time.monotonic()
                if not load.wait_for(CLIENTS, _RECOVERY_SECONDS):
                    outcome.faults.append(
                        f"round {number}: nothing acknowledged {_RECOVERY_SECONDS:.0f} s after"
                    )
                    break
                recoveries.append(time.monotonic() - began)
            load.settle(server.url)
            server.wait_until_ready()
            outcome.check(read_back(client, load.ledger, USERS), f"round {number}")
        server.stop()
    outcome.compare(learn_again(store), "at the end")
    outcome.listen(load.ledger)
    outcome.figures |= _spread("recovery_seconds", recoveries)
    return outcome


def disk(store: Store, rounds: int, seed: int = 0) -> Outcome:
    """Fill the disk of the SQLite file under load, then add space and check that the server recovers.

    If no disk can be mounted, the size of the file is limited instead, and the server is restarted to lift the limit.
    """
    outcome = Outcome("disk", store.kind, rounds)
    load = Load(CLIENTS, USERS, seed)
    for number in range(rounds):
        with small_disk(store.folder / "data", _DISK) as mounted:
            load = Load(CLIENTS, USERS, seed + number)
            outcome.figures["disk"] = "tmpfs" if mounted else "max_page_count"
            told = {} if mounted else {"FAULTS_MAX_PAGES": str(_PAGES)}
            with store.launcher().serving(**told) as server:
                _fill(outcome, load, server, f"round {number}")
                if mounted:
                    enlarge(store.folder / "data", _MORE_DISK)
                    _go_on(outcome, load, server, f"round {number}")
                else:
                    server.kill()
            if not mounted:
                with store.launcher().serving() as server:
                    _go_on(outcome, load, server, f"round {number}")
            outcome.compare(learn_again(store), f"round {number}")
            outcome.listen(load.ledger)
        if not mounted:
            break  # the disk stays full: only one round
    return outcome


def _killed(outcome: Outcome, store: Store, seed: int, environment: dict[str, str]) -> Outcome:
    random, load = Random(seed), Load(CLIENTS, USERS, seed)  # noqa: S311
    starts, unanswered = [], 0
    for number in range(outcome.rounds + 1):
        started = time.monotonic()
        with store.launcher().serving(**environment) as server, server.client() as client:
            starts.append(time.monotonic() - started)
            found = read_back(client, load.ledger, USERS)
            outcome.check(found, f"after kill {number}")
            unanswered += found.unacknowledged
            load.settle(server.url)
            if number == outcome.rounds:
                outcome.check(read_back(client, load.ledger, USERS), "at the end")
                break
            with load.sending([server.url]):
                load.wait_for(random.randint(*_ROUND_EVENTS))
                time.sleep(random.random() / 20)  # at a random moment of a commit
                server.kill()
        if (number + 1) % _REPLAY_EVERY == 0 or number + 1 == outcome.rounds:
            outcome.compare(learn_again(store), f"after kill {number + 1}")
    outcome.listen(load.ledger)
    outcome.figures |= _spread("start_seconds", starts) | {"stored_though_the_answer_was_lost": unanswered}
    return outcome


def _fill(outcome: Outcome, load: Load, server: Server, when: str) -> None:
    """Send until the store accepts no more events, then record readiness and check that rankings still work."""
    began = time.monotonic()
    with load.sending([server.url], patient=True):
        while load.ledger.statuses[503] < CLIENTS and time.monotonic() - began < _RECOVERY_SECONDS:
            threading.Event().wait(0.02)
    if not load.ledger.statuses[503]:
        outcome.faults.append(f"{when}: the disk did not fill")
    outcome.figures["acknowledged_before_full"] = len(load.ledger.acknowledged)
    with server.client() as client:
        outcome.figures["readyz_when_full"] = client.get("/readyz").status_code
        ranked = client.post("/v1/rerank", json={"query": "q", "documents": ["a", "b"], "user": USERS[0]})
        if ranked.status_code != 200:
            outcome.faults.append(f"{when}: no ranking on a full disk: {ranked.status_code}")


def _go_on(outcome: Outcome, load: Load, server: Server, when: str) -> None:
    """Check that after space is added, the server accepts every refused event and further ones."""
    began = time.monotonic()
    server.wait_until_ready()
    outcome.figures["recovery_seconds"] = round(time.monotonic() - began, 3)
    load.settle(server.url)
    with load.sending([server.url]):
        if not load.wait_for(CLIENTS, _RECOVERY_SECONDS):
            outcome.faults.append(f"{when}: nothing is taken though there is room again")
    with server.client() as client:
        outcome.check(read_back(client, load.ledger, USERS), when)
    server.stop()


def _spread(name: str, seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {f"{name}_median": round(statistics.median(seconds), 3), f"{name}_max": round(max(seconds), 3)}
