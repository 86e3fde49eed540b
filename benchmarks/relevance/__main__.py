"""The command `python -m benchmarks.relevance --data FOLDER`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.relevance.questions import load_sets
from benchmarks.relevance.run import PARTS, SERVER_PARTS, Place, measure
from penchant.models.bundle import DEFAULT_BUNDLE


def main(  # noqa: PLR0917 - the command line's options, in order
    data: Annotated[
        Path, typer.Option(help="Folder of data sets: cranfield, and sets of judgements with prompts.")
    ],
    wanted: Annotated[
        str | None,
        typer.Option("--parts", help=f"Parts, separated by commas. {', '.join(PARTS)} by default."),
    ] = None,
    sets: Annotated[str, typer.Option(help="Question sets, separated by commas.")] = "cranfield,facts",
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")] = DEFAULT_BUNDLE,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", help="Rank in this process, without a server: quick, for trying out."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/relevance"
    ),
    cache: Annotated[Path, typer.Option(help="Folder of cached features.")] = Path(".penchant/benchmarks"),
) -> None:
    """Measure whether rankings answer the question. The exit code is 1 if a goal is missed or a probe fails."""
    default = [part for part in PARTS if not (in_process and part in SERVER_PARTS)]
    parts = [part.strip() for part in wanted.split(",")] if wanted else default
    try:
        questions = load_sets(data, [name.strip() for name in sets.split(",")])
        results = measure(questions, parts, Place(data, bundle, out, cache), in_process=in_process)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    print("\n" + out.with_suffix(".md").read_text("utf-8"))
    if results.missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
