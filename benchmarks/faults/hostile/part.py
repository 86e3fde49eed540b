"""All attacks on one store, each group on a server of its own."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from benchmarks.faults.hostile.cases import Case, Sizes, Target, measure
from benchmarks.faults.hostile.connections import FIRST_BYTE_SECONDS, connection_cases
from benchmarks.faults.hostile.enormous import enormous_cases, ranking_quota, seed_large_log, teach_large_log
from benchmarks.faults.hostile.hanging import hanging
from benchmarks.faults.hostile.logs import SETTINGS, log_cases, seed_logs, teach_logs
from benchmarks.faults.hostile.refused import refused_cases
from benchmarks.faults.hostile.sending import post
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.processes import Server
from benchmarks.faults.stores import Store

ATTACKS: Final = ("refused", "enormous", "connections", "logs", "hanging")


@dataclass(frozen=True)
class _Group:
    """Cases on one server.

    Attributes:
        cases: The cases of given sizes.
        teach: Sends what the cases need to a first server.
        seed: Adds to it while no server runs.
        settings: Environment variables of both servers.
    """

    cases: Callable[[Sizes], Iterable[Case]]
    teach: Callable[[Server, Sizes], None] | None = None
    seed: Callable[[Store, Sizes], None] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def hostile(store: Store, sizes: Sizes, attacks: Collection[str] = ATTACKS) -> Outcome:
    """Attack servers on a store, and record what an innocent client experiences beside each case.

    Args:
        store: The store.
        sizes: How large the attacks are.
        attacks: Groups of cases, of `ATTACKS`. The group `hanging` is left out on SQLite.
    """
    outcome = Outcome("hostile", store.kind, 1)
    groups = {
        "refused": _Group(refused_cases),
        "enormous": _Group(
            enormous_cases,
            teach_large_log,
            seed_large_log,
            {"PENCHANT_TENANT_RANKING_BYTES": str(ranking_quota(sizes))},
        ),
        "connections": _Group(
            connection_cases, settings={"PENCHANT_FIRST_BYTE_TIMEOUT_SECONDS": str(FIRST_BYTE_SECONDS)}
        ),
        "logs": _Group(log_cases, teach_logs, seed_logs, SETTINGS),
    }
    for name in attacks:
        if name in groups:
            _attack(groups[name], store, sizes, outcome)
        elif store.url is not None:
            hanging(store, sizes, outcome)
    return outcome


def _attack(group: _Group, store: Store, sizes: Sizes, outcome: Outcome) -> None:
    launcher = store.launcher()
    if group.teach is not None and group.seed is not None:
        with launcher.serving(**group.settings) as server:
            group.teach(server, sizes)
            server.stop()
        group.seed(store, sizes)
    with launcher.serving(**group.settings) as server:
        target = Target(server, store)
        vote = {"type": "vote", "user": "innocent", "text": "b", "value": 1}
        target.send(post("/v1/feedback", vote))
        for case in group.cases(sizes):
            row = measure(case, target, sizes)
            outcome.attack(row)
            print(
                f"  {row.case}: p99 {row.p99_ms} ms, {row.memory_above_mb:+} MB {'; '.join(row.faults)}",
                flush=True,
            )
        server.stop()
