"""The command `python -m benchmarks.scale`."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.scale import report
from benchmarks.scale.measure import Spec
from benchmarks.scale.planted import write


def main(  # noqa: PLR0917 - the command line's options, in order
    judgements: Annotated[str, typer.Option(help="Sizes, separated by commas.")] = "10000,100000,1000000",
    each: Annotated[int, typer.Option(min=1, help="Judgements per user.")] = 50,
    texts: Annotated[int, typer.Option(min=2, help="Number of judged texts.")] = 5000,
    new_texts: Annotated[int, typer.Option(min=2, help="Number of unjudged texts to predict.")] = 500,
    rank: Annotated[int, typer.Option(min=1, help="Number of directions of taste.")] = 16,
    dim: Annotated[int, typer.Option(min=41, help="Features per text; 40 of them are attributes.")] = 424,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads that torch may use.")] = 2,
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/scale"
    ),
) -> None:
    """Measure fitting for growing numbers of judgements. The exit code is 1 if a fit needs more than 4 GiB of memory."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sorted(int(size) for size in judgements.split(",")):
            path = Path(folder) / "judgements.jsonl"
            spec = Spec(str(path), n, max(n // each, 1), texts, new_texts, rank, dim, seed, threads)
            write(spec.world(), path, n, texts=slice(0, texts), seed=seed)
            found.append(_measured(spec))
            print(f"{n:,} judgements: {found[-1]['seconds']['fit']:.1f} s", flush=True)
    missed = report.write(found, out)
    print(out.with_suffix(".md").read_text("utf-8"))
    for goal in missed:
        print(f"GOAL MISSED: {goal}")
    if missed:
        raise typer.Exit(1)


def _measured(spec: Spec) -> dict[str, Any]:
    """Measure one size in a process of its own, so that its memory can be measured separately."""
    command = [sys.executable, "-m", "benchmarks.scale.measure", json.dumps(asdict(spec))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    typer.run(main)
