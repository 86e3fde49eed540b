"""The command `python -m benchmarks.serving`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.serving import inside, parts, pictures, profile, report
from benchmarks.serving.parts import Outcome

PARTS = ("rerank", "cached", "profile", "posterior", "start", "feedback", "growth", "overload")


def main(
    wanted: Annotated[str, typer.Option("--parts", help="Parts, separated by commas.")] = ",".join(PARTS),
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Duration of each load. Overload takes six times as long.")
    ] = 10.0,
    peers: Annotated[bool, typer.Option(help="Compare with the peers, and install missing ones.")] = True,
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/serving"
    ),
    pictures_in: Annotated[Path, typer.Option("--pictures", help="Folder of the pictures.")] = Path(
        "docs/benchmarks"
    ),
) -> None:
    """Measure how fast the service answers. The exit code is 1 if a goal is missed."""
    runs: dict[str, Callable[[], Outcome]] = {
        "rerank": lambda: parts.rerank(seconds, peers),
        "cached": lambda: parts.cached(seconds),
        "profile": lambda: profile.profile(seconds),
        "posterior": lambda: inside.posterior(seconds),
        "start": parts.start,
        "feedback": lambda: parts.feedback(seconds),
        "growth": lambda: inside.growth(seconds),
        "overload": lambda: parts.overload(6 * seconds),
    }
    outcomes: list[Outcome] = []
    for name in [part.strip() for part in wanted.split(",")]:
        if name not in runs:
            raise typer.BadParameter(f"Unknown part: {name}. Choose from {', '.join(PARTS)}.")
        outcomes.append(runs[name]())
        print(
            f"{name}: " + "; ".join(f"{goal.name} {goal.value:.3g}" for goal in outcomes[-1].goals),
            flush=True,
        )
        missed = report.write(outcomes, seconds, out)
        if "curves" in outcomes[-1].figures:
            pictures.draw(outcomes[-1].figures["curves"], pictures_in)
    print("\n" + out.with_suffix(".md").read_text("utf-8"))
    for goal in missed:
        print(f"GOAL MISSED: {goal.name}: {goal.value:.3g}")
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
