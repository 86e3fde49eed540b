"""The command: `python -m benchmarks.personalization --data FOLDER`."""

from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.personalization import plan, report
from benchmarks.personalization.cells import Store, run
from benchmarks.personalization.data import sources
from benchmarks.personalization.features import encode, extractor_identity
from benchmarks.personalization.systems import SYSTEMS
from penchant.models.encoder import load_encoder
from penchant.models.features import FeatureExtractor


def main(  # noqa: PLR0917 - the command line's options, in order
    data: Annotated[Path, typer.Option(help="A folder of folders, each with data.jsonl.gz.")],
    sets: Annotated[
        str | None, typer.Option(help="Names, with commas; all of the folder unless given.")
    ] = None,
    splits: Annotated[
        str, typer.Option(help="cold (new texts), warm (texts that recur), or both.")
    ] = "cold,warm",
    repetitions: Annotated[int, typer.Option(min=1, help="Random splits of each.")] = 5,
    systems: Annotated[str, typer.Option(help="With commas.")] = ",".join(SYSTEMS),
    parts: Annotated[str, typer.Option(help="Of the benchmark, with commas.")] = ",".join(plan.PARTS),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 1,
    out: Annotated[Path, typer.Option(help="Path of the results, without ending.")] = Path(
        "benchmarks/results/personalization"
    ),
    pictures: Annotated[Path, typer.Option(help="Folder of the learning curves.")] = Path("docs/benchmarks"),
    cache_folder: Annotated[Path, typer.Option("--cache", help="Features, and results so far.")] = Path(
        ".penchant/benchmarks"
    ),
    encoder: Annotated[str, typer.Option(help="Text encoder, as of `penchant fit`.")] = "embedded",
    force: Annotated[bool, typer.Option(help="Compute again what is there already.")] = False,
    speed: Annotated[bool, typer.Option(help="Time fitting against LoRe's training, on all cores.")] = False,
    reverse_labels: Annotated[
        bool, typer.Option(help="Turn the test labels of the probes round: the command must then fail.")
    ] = False,
) -> None:
    """Measures how well systems know a user they have a few judgements of; exit code 1 where a probe fails."""
    options = plan.Options.of(splits, repetitions, systems, parts, reverse_labels=reverse_labels)

    @cache
    def extractor() -> FeatureExtractor:
        return FeatureExtractor(load_encoder(encoder))

    identity = extractor_identity(encoder, extractor, cache_folder)
    found = {s.name: s for s in sources(data, _listed(sets) if sets else None, identity, cache_folder)}
    for source in found.values():
        encode(source, extractor)
    cells = plan.cells(options, found)
    keys = {cell: plan.key(cell, found) for cell in cells}
    store = Store(cache_folder / "cells")
    missing = [cell for cell in cells if force or not store.has(cell, keys[cell])]
    print(f"{len(cells)} cells, {len(missing)} to compute", flush=True)
    run(plan.groups(missing, found), partial(plan.fill, sources=found), store, keys, jobs)
    timed = plan.timed(found, cache_folder) if speed else []
    failures = report.write(
        store, cells, found, options, out=out, folder=pictures, encoder=encoder, speed=timed
    )
    for failure in failures:
        print(f"PROBE FAILED: {failure}", flush=True)
    if failures:
        raise typer.Exit(1)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


if __name__ == "__main__":
    typer.run(main)
