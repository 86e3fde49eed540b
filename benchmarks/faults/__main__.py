"""The command `python -m benchmarks.faults`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from benchmarks.faults import report
from benchmarks.faults.crashes import clock, database, disk, kill
from benchmarks.faults.hostile.cases import Sizes
from benchmarks.faults.hostile.part import ATTACKS, hostile
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.sharing import WRITERS, replicas
from benchmarks.faults.slowness import slow
from benchmarks.faults.stores import Cluster, Store, new_store, postgresql

STORES: Final = ("sqlite", "postgresql")
PARTS: Final = ("kill", "database", "replicas", "disk", "clock", "slow", "hostile")

ONLY: Final = {"database": "postgresql", "replicas": "postgresql", "disk": "sqlite"}
"""Parts that only one kind of store can run. A SQLite file has a single server, and no database server to restart."""


def main(  # noqa: PLR0917 - the command line's options, in order
    rounds: Annotated[int, typer.Option(min=1, help="Number of faults in each part.")] = 50,
    stores: Annotated[str, typer.Option(help="Stores, separated by commas.")] = ",".join(STORES),
    parts: Annotated[str, typer.Option(help="Parts, separated by commas.")] = ",".join(PARTS),
    seconds: Annotated[float, typer.Option(min=1, help="How long two replicas share one user.")] = 60.0,
    writers: Annotated[int, typer.Option(min=1, help="Clients that write about that user.")] = WRITERS,
    slow_clients: Annotated[int, typer.Option(min=2, help="Concurrent slow clients.")] = 100,
    attacks: Annotated[str, typer.Option(help="Kinds of hostile requests, separated by commas.")] = ",".join(
        ATTACKS
    ),
    rankings: Annotated[
        int, typer.Option(min=1, help="Rankings of an innocent client beside each attack.")
    ] = 1000,
    log_events: Annotated[
        int, typer.Option(min=1000, help="Events in a long log, a multiple of 500.")
    ] = 20_000,
    stored_answers: Annotated[int, typer.Option(min=1, help="Stored answers beside deletions.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the events and of the moments of kills.")] = 0,
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/faults"
    ),
) -> None:
    """Inject faults while clients send feedback. The exit code is 1 if an event is lost or duplicated."""
    wanted = _listed(parts, PARTS)
    kinds = _listed(attacks, ATTACKS)
    sizes = Sizes(rankings=rankings, log_events=log_events, stored_answers=stored_answers)
    runs: dict[str, Callable[[Store], Outcome]] = {
        "kill": lambda store: kill(store, rounds, seed),
        "database": lambda store: database(store, rounds, seed),
        "replicas": lambda store: replicas(store, seconds, writers),
        "disk": lambda store: disk(store, max(1, rounds // 10), seed),
        "clock": lambda store: clock(store, max(1, rounds // 5), seed),
        "slow": lambda store: slow(store, slow_clients),
        "hostile": lambda store: hostile(store, sizes, kinds),
    }
    outcomes: list[Outcome] = []
    for kind, cluster in _clusters(_listed(stores, STORES)):
        for part in wanted:
            if ONLY.get(part, kind) != kind:
                continue
            with new_store(kind, cluster) as store:
                outcomes.append(runs[part](store))
            _tell(outcomes[-1])
            report.write(outcomes, out)
    print("\n" + out.with_suffix(".md").read_text("utf-8"))
    if any(outcome.faults for outcome in outcomes):
        raise typer.Exit(1)


def _clusters(kinds: list[str]) -> Iterator[tuple[str, Cluster | None]]:
    for kind in kinds:
        with ExitStack() as stack:
            yield kind, stack.enter_context(postgresql()) if kind == "postgresql" else None


def _listed(given: str, known: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"Unknown: {', '.join(unknown)}. Choose from {', '.join(known)}.")
    return names


def _tell(outcome: Outcome) -> None:
    counts = f"{outcome.audit.acknowledged} acknowledged, {outcome.audit.lost} lost" if outcome.audit else ""
    print(f"{outcome.part} on {outcome.store}: {counts} {'; '.join(outcome.faults)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
