"""All attacks on one store, each group on a server of its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from benchmarks.faults.hostile.cases import Case, Sizes, Target, measure
from benchmarks.faults.hostile.connections import connection_cases
from benchmarks.faults.hostile.enormous import enormous_cases, ranking_quota, seed_large_log, teach_large_log
from benchmarks.faults.hostile.hanging import hanging
from benchmarks.faults.hostile.logs import SETTINGS, log_cases, seed_logs, teach_logs
from benchmarks.faults.hostile.refused import refused_cases
from benchmarks.faults.hostile.sending import post, send
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.stores import Store

ATTACKS: Final = ("refused", "enormous", "connections", "logs", "hanging")


_CASES: Final[Mapping[str, Callable[[Sizes], Iterable[Case]]]] = {
    "refused": refused_cases,
    "enormous": enormous_cases,
    "connections": connection_cases,
    "logs": log_cases,
}


def hostile(
    store: Store, sizes: Sizes, attacks: Sequence[str] = ATTACKS, *, one_server: bool = False
) -> Outcome:
    """Attack servers on a store, and record what an innocent client experiences beside each case.

    Args:
        store: The store.
        sizes: How large the attacks are.
        attacks: Groups of cases, of `ATTACKS`. The group `hanging` is left out on SQLite.
        one_server: Whether one server is attacked by all groups but `hanging`. That is faster, but a peak of memory says
            less about a server that has already had a higher one.
    """
    outcome = Outcome("hostile", store.kind, 1)
    settings = {
        **SETTINGS,
        "PENCHANT_TENANT_RANKING_BYTES": str(ranking_quota(sizes)),
        "PENCHANT_FIRST_BYTE_TIMEOUT_SECONDS": str(sizes.first_byte_seconds),
    }
    names = [name for name in attacks if name in _CASES]
    if names:
        _teach(store, sizes, names, settings)
    for group in [names] if one_server else [[name] for name in names]:
        _seed(store, sizes, group)
        with store.launcher().serving(**settings) as server:
            _attack(Target(server, store), sizes, group, outcome)
            server.stop()
    if "hanging" in attacks and store.url is not None:
        hanging(store, sizes, outcome)
    return outcome


def _teach(store: Store, sizes: Sizes, names: Sequence[str], settings: Mapping[str, str]) -> None:
    """Send what the cases need to a server."""
    with store.launcher().serving(**settings) as server:
        vote = {"type": "vote", "user": "innocent", "text": "b", "value": 1}
        send(server.port, post("/v1/feedback", vote))
        if "enormous" in names:
            teach_large_log(server, sizes)
        if "logs" in names:
            teach_logs(server, sizes)
        server.stop()


def _seed(store: Store, sizes: Sizes, names: Sequence[str]) -> None:
    """Multiply what was sent. This comes just before an attack, because any server would begin to learn long logs."""
    if "enormous" in names:
        seed_large_log(store, sizes)
    if "logs" in names:
        seed_logs(store, sizes)


def _attack(target: Target, sizes: Sizes, names: Sequence[str], outcome: Outcome) -> None:
    for case in (case for name in names for case in _CASES[name](sizes)):
        row = measure(case, target, sizes)
        outcome.attack(row)
        print(
            f"  {row.case}: p99 {row.p99_ms} ms, {row.memory_above_mb:+} MB {'; '.join(row.faults)}",
            flush=True,
        )
