"""The command `python -m benchmarks.personalization --data FOLDER`."""

from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.personalization.plan import PARTS, Options
from benchmarks.personalization.run import Place, measure
from benchmarks.personalization.systems import SYSTEMS
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder


def main(  # noqa: PLR0917 - the command line's options, in order
    data: Annotated[Path, typer.Option(help="Folder of data sets; each is a folder with data.jsonl.gz.")],
    sets: Annotated[str | None, typer.Option(help="Sets, separated by commas. All sets by default.")] = None,
    splits: Annotated[
        str, typer.Option(help="cold (new texts), warm (texts that recur), or both.")
    ] = "cold,warm",
    repetitions: Annotated[int, typer.Option(min=1, help="Random splits of each set.")] = 5,
    peer_repetitions: Annotated[
        int, typer.Option(min=1, help="Repetitions of LoRe, PAL-A and Hebbian, which take most of the time.")
    ] = 5,
    systems: Annotated[str, typer.Option(help="Systems, separated by commas.")] = ",".join(SYSTEMS),
    parts: Annotated[str, typer.Option(help="Parts, separated by commas.")] = ",".join(PARTS),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 1,
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/personalization"
    ),
    pictures: Annotated[Path, typer.Option(help="Folder of the learning curves.")] = Path("docs/benchmarks"),
    cache_folder: Annotated[
        Path, typer.Option("--cache", help="Folder of cached features and results.")
    ] = Path(".penchant/benchmarks"),
    encoder: Annotated[str, typer.Option(help="Text encoder, as in `penchant fit`.")] = "embedded",
    force: Annotated[bool, typer.Option(help="Compute existing results again.")] = False,
    speed: Annotated[
        bool, typer.Option(help="Also time fitting against LoRe's training, on all cores.")
    ] = False,
    reverse_labels: Annotated[
        bool, typer.Option(help="Reverse the probes' test labels. The command must then fail.")
    ] = False,
) -> None:
    """Measure how well systems predict a user after a few judgements. The exit code is 1 if a probe fails."""
    try:
        options = Options.of(
            splits,
            repetitions,
            systems,
            parts,
            reverse_labels=reverse_labels,
            peer_repetitions=peer_repetitions,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    @cache
    def extractor() -> FeatureExtractor:
        return FeatureExtractor(load_encoder(encoder))

    failures = measure(
        data,
        sets.split(",") if sets else None,
        options,
        encoder=encoder,
        extractor=extractor,
        place=Place(out, pictures, cache_folder),
        jobs=jobs,
        force=force,
        speed=speed,
    )
    for failure in failures:
        print(f"PROBE FAILED: {failure}", flush=True)
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
