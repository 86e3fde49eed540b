"""The measurements on servers. Each part returns figures and the project's goals for them."""

import itertools
import json
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.machine import accelerator
from benchmarks.serving import peers
from benchmarks.serving.client import Load, Spec, load
from benchmarks.serving.servers import Recipe, Server, ours, serving, weightless
from benchmarks.serving.texts import CANDIDATES, Texts

ROUNDS: Final = 3
CONCURRENCIES: Final = (1, 8, 32)
OVERLOAD: Final = 5.0
_OK: Final = "200"
_SERVER_FAULT: Final = 500
_WARM_SECONDS: Final = 1.0
_SEEDS: Final = itertools.count(1000)


@dataclass(frozen=True)
class Goal:
    """A figure and its goal.

    Attributes:
        name: Name of the figure.
        value: Measured value.
        bound: Largest or smallest acceptable value.
        at_least: Whether the bound is the smallest acceptable value.
    """

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass
class Outcome:
    """The result of a part.

    Attributes:
        part: Name of the part.
        table: Rows to read: the header, then the figures.
        goals: Goals for the figures.
        figures: All figures in machine-readable form.
    """

    part: str
    table: list[list[str]]
    goals: list[Goal] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def alternated(
    servers: Sequence[Server], spec: Callable[[Server], Spec], rounds: int
) -> dict[str, list[Load]]:
    """Send the same load to each server in turn, several times, so that disturbances affect all of them."""
    loads: dict[str, list[Load]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            loads[server.name].append(load(spec(server)))
    return loads


def median_rate(loads: Sequence[Load]) -> float:
    """Return the median number of answers with status 200 per second."""
    return statistics.median(one.rate for one in loads)


def median_quantile(loads: Sequence[Load], share: float) -> float:
    """Return the median over loads of a quantile of the latencies, in seconds."""
    return statistics.median(one.quantile(share) for one in loads)


def rerank(seconds: float, with_peers: bool) -> Outcome:
    """Measure ranking 16 new texts of 128 tokens, in comparison with the peers."""
    others: list[Recipe] = []
    if with_peers:
        device = "cpu" if accelerator() is None else "cuda"  # the same choice as the service's
        others = [peers.infinity(device, bf16=False), peers.infinity(device, bf16=True)]
        others.append(peers.cross_encoder(device))
    with ExitStack() as stack:
        servers = [stack.enter_context(ours())]
        servers += [stack.enter_context(serving(recipe)) for recipe in others]
        for server in servers:
            load(_new(server, 1, _WARM_SECONDS))
        outcome = Outcome(
            "rerank", [["server", "concurrency", "requests/s", "p50 ms", "p99 ms", "ours ÷ it"]]
        )
        rates: dict[tuple[str, int], float] = {}
        for concurrency in CONCURRENCIES:
            loads = alternated(servers, lambda s, c=concurrency: _new(s, c, seconds), ROUNDS)  # type: ignore[misc]
            for name, found in loads.items():
                rates[name, concurrency] = median_rate(found)
                outcome.figures[f"{name}, {concurrency}"] = [one.rate for one in found]
                refused = sum(one.statuses.get("429", 0) for one in found)
                ratio = _ratio(rates[servers[0].name, concurrency], rates[name, concurrency])
                outcome.table.append([name, str(concurrency), *_speeds(found), f"{ratio:.2f}"])
                if refused:
                    outcome.figures[f"{name}, {concurrency}, refused"] = refused
        memory = {server.name: server.rss_mib for server in servers}
    outcome.figures["rss_mib"] = memory
    outcome.table += [[name, "memory", f"{mib:.0f} MiB", "", "", ""] for name, mib in memory.items()]
    mine = servers[0].name
    for server, factor in zip(servers[1:3], (4.0, 1.7), strict=False):
        for concurrency in CONCURRENCIES:
            ratio = _ratio(rates[mine, concurrency], rates[server.name, concurrency])
            outcome.goals.append(Goal(f"ours ÷ {server.name} at {concurrency}", ratio, factor))
    most = CONCURRENCIES[-1]
    outcome.goals.append(
        Goal(
            f"rate at {most} ÷ rate at {CONCURRENCIES[1]}",
            _ratio(rates[mine, most], rates[mine, CONCURRENCIES[1]]),
            0.9,
        )
    )
    outcome.goals.append(Goal("resident memory, MiB", memory[mine], 600, at_least=False))
    return outcome


def cached(seconds: float) -> Outcome:
    """Measure ranking the same 16 texts repeatedly, in comparison with a route that does nothing."""
    with ours() as server, serving(weightless()) as nothing:
        more = {"user": "u1"}
        load(Spec(server.port, kind="same", seconds=_WARM_SECONDS, more=more))
        rows, goals, figures = [], [], {}
        for concurrency in (1, 8):
            loads = alternated(
                [server, nothing],
                lambda s, c=concurrency: Spec(s.port, kind="same", seconds=seconds, concurrency=c, more=more),  # type: ignore[misc]
                ROUNDS,
            )
            ratio = _ratio(median_rate(loads[server.name]), median_rate(loads[nothing.name]))
            for name, found in loads.items():
                rows.append([name, str(concurrency), *_speeds(found)])
                figures[f"{name}, {concurrency}"] = [one.rate for one in found]
            goals.append(Goal(f"ours ÷ a no-op route, concurrency {concurrency}", ratio, 0.5))
            if concurrency == 1:
                p50 = 1e3 * median_quantile(loads[server.name], 0.5)
                goals.append(Goal("p50 at concurrency 1, ms", p50, 3.0, at_least=False))
    return Outcome(
        "cached", [["server", "concurrency", "requests/s", "p50 ms", "p99 ms"], *rows], goals, figures
    )


def start(starts: int = 3) -> Outcome:
    """Measure the time from start to readiness with an empty store, and the memory at that point."""
    seconds, memory = [], []
    for _ in range(starts):
        with ours() as server:
            seconds.append(server.ready_seconds)
            memory.append(server.rss_mib)
    ready = statistics.median(seconds)
    return Outcome(
        "start",
        [
            ["", "median", "all"],
            ["ready after, s", f"{ready:.2f}", ", ".join(f"{one:.2f}" for one in seconds)],
            ["resident, MiB", f"{statistics.median(memory):.0f}", ", ".join(f"{one:.0f}" for one in memory)],
        ],
        [Goal("ready after, s", ready, 10.0, at_least=False)],
        {"seconds": seconds, "rss_mib": memory},
    )


def feedback(seconds: float, users: int = 500) -> Outcome:
    """Measure one vote per request on ranked texts, in comparison with bare commits of the same row."""
    with tempfile.TemporaryDirectory() as folder, ours(data_dir=folder) as server:
        ranked = httpx.post(
            f"http://127.0.0.1:{server.port}/v1/rerank",
            json={"query": "Which answer is best?", "documents": Texts(next(_SEEDS)).texts()},
            trust_env=False,
            timeout=60,
        ).json()
        told = {"rank_id": ranked["id"], "candidates": CANDIDATES, "users": users}
        spec = Spec(server.port, "/v1/feedback", "vote", seconds, concurrency=32, more=told)
        load(Spec(server.port, "/v1/feedback", "vote", _WARM_SECONDS, concurrency=32, more=told))
        votes, commits = [], []
        for _ in range(ROUNDS):
            votes.append(load(spec))
            commits.append(_commits(Path(folder), seconds))
    ratio = _ratio(median_rate(votes), statistics.median(commits))
    return Outcome(
        "feedback",
        [
            ["", "a second", "p50 ms", "p99 ms"],
            ["durable votes, concurrency 32", *_speeds(votes)],
            ["bare commits of the same row, synchronous=FULL", f"{statistics.median(commits):.0f}", "", ""],
        ],
        [Goal("votes ÷ bare commits", ratio, 0.3)],
        {"votes": [one.rate for one in votes], "commits": commits, "statuses": votes[-1].statuses},
    )


def overload(seconds: float) -> Outcome:
    """Measure the answers under five times the server's capacity, and how soon it recovers afterwards."""
    with ours() as server:
        most = CONCURRENCIES[-1]
        load(_new(server, most, _WARM_SECONDS))
        capacity = load(_new(server, most, max(10.0, seconds / 4)))
        alone = load(_new(server, 1, 3.0))
        weights: list[float] = []
        ended = threading.Event()
        scales = threading.Thread(target=_weigh, args=(server, ended, weights))
        scales.start()
        flood = load(Spec(server.port, seconds=seconds, rate=OVERLOAD * capacity.rate, seed=next(_SEEDS)))
        ended.set()
        scales.join()
        recovery = _recovery(server, 2 * alone.quantile(0.5))
    faults = sum(number for status, number in flood.statuses.items() if int(status) >= _SERVER_FAULT)
    broken = flood.statuses.get("0", 0)
    half = weights[len(weights) // 2 :]
    growth = max(half) / statistics.median(weights[: len(weights) // 2] or half)
    return Outcome(
        "overload",
        [
            ["", "requests/s", "p50 ms", "p99 ms", "answers"],
            [f"capacity, concurrency {most}", *_speeds([capacity]), json.dumps(capacity.statuses)],
            [f"{OVERLOAD:g} × as many", *_speeds([flood]), json.dumps(flood.statuses)],
            ["itself again after", f"{recovery:.1f} s", "", "", ""],
        ],
        [
            Goal("answers 5xx and broken connections", faults + broken, 0, at_least=False),
            Goal("429 without Retry-After", flood.without_retry, 0, at_least=False),
            Goal(
                "p99 of the accepted ÷ p99 at capacity",
                flood.quantile(0.99) / capacity.quantile(0.99),
                2.0,
                at_least=False,
            ),
            Goal("good answers ÷ capacity", _ratio(flood.rate, capacity.rate), 0.8),
            Goal("memory at its most ÷ before", growth, 1.1, at_least=False),
            Goal("itself again after, s", recovery, 5.0, at_least=False),
        ],
        {"statuses": flood.statuses, "rss_mib": weights, "recovery_seconds": recovery},
    )


def _new(server: Server, concurrency: int, seconds: float) -> Spec:
    more: Mapping[str, Any] = server.more
    return Spec(
        server.port,
        server.path,
        seconds=seconds,
        concurrency=concurrency,
        seed=next(_SEEDS),
        more=dict(more),
    )


def _speeds(loads: Sequence[Load]) -> list[str]:
    p50, p99 = (1e3 * median_quantile(loads, share) for share in (0.5, 0.99))
    return [f"{median_rate(loads):.1f}", f"{p50:.2f}", f"{p99:.2f}"]


def _ratio(ours_: float, theirs: float) -> float:
    return ours_ / theirs if theirs else float("inf")


def _commits(folder: Path, seconds: float) -> float:
    """Return the commits per second of single rows like the server's, in a separate database on the same disk."""
    with sqlite3.connect(folder / "penchant.sqlite3") as source:
        schema = source.execute("SELECT sql FROM sqlite_master WHERE name = 'feedback_events'").fetchone()[0]
        cursor = source.execute("SELECT * FROM feedback_events LIMIT 1")
        row = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
    source.close()
    path = folder / "bare.sqlite3"
    path.unlink(missing_ok=True)
    bare = sqlite3.connect(path, isolation_level=None)
    bare.execute("PRAGMA journal_mode = WAL")
    bare.execute("PRAGMA synchronous = FULL")
    bare.execute(schema)
    insert = (
        f"INSERT INTO feedback_events ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)})"  # noqa: S608
    )
    number, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        number += 1
        bare.execute(insert, row | {"seq": number, "event_id": f"bare-{number}"})
    rate = number / (time.perf_counter() - started)
    bare.close()
    return rate


def _weigh(server: Server, ended: threading.Event, weights: list[float]) -> None:
    while not ended.wait(0.25):
        weights.append(server.rss_mib)


def _recovery(server: Server, normal: float, most: float = 30.0) -> float:
    """Return the seconds until three requests in a row are accepted and answered as fast as `normal`."""
    began, good, started = time.perf_counter(), 0, 0.0
    while time.perf_counter() - began < most:
        asked = time.perf_counter()
        answer = load(_new(server, 1, 0.01))
        fast = answer.statuses.get(_OK) is not None and answer.quantile(0.5) <= max(normal, 0.05)
        good, started = (good + 1, started if good else asked) if fast else (0, 0.0)
        if good == 3:
            return started - began
    return most
