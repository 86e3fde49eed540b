"""A whole run: sets, features, cells, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.personalization import cells, plan, report
from benchmarks.personalization.data import sources
from benchmarks.personalization.features import encode, extractor_identity
from penchant.models.encoding.features import FeatureExtractor


@dataclass(frozen=True)
class Place:
    """The paths that a run reads and writes.

    Attributes:
        out: Path of the JSON and the Markdown file, without extension.
        pictures: Folder of the learning curves.
        cache: Folder of features and of stored results.
    """

    out: Path
    pictures: Path
    cache: Path


def measure(
    data: Path,
    sets: Sequence[str] | None,
    options: plan.Options,
    *,
    encoder: str,
    extractor: Callable[[], FeatureExtractor],
    place: Place,
    jobs: int = 1,
    force: bool = False,
    speed: bool = False,
) -> list[str]:
    """Compute all missing results and write the report.

    Args:
        data: Folder of folders, each with data.jsonl.gz.
        sets: Names of the sets. None for all.
        options: Options of the run.
        encoder: Name of the text encoder.
        extractor: Function that loads the encoder. It is only called if a text has to be encoded.
        place: Paths of the run.
        jobs: Number of processes.
        force: Whether to compute everything again.
        speed: Whether to time fitting as well.

    Returns:
        Every probe that failed.
    """
    identity = extractor_identity(encoder, extractor, place.cache)
    found = {source.name: source for source in sources(data, sets, identity, place.cache)}
    for source in found.values():
        encode(source, extractor)
    wanted = plan.cells(options, found)
    keys = {cell: plan.key(cell, found) for cell in wanted}
    store = cells.Store(place.cache / "cells")
    missing = [cell for cell in wanted if force or not store.has(cell, keys[cell])]
    print(f"{len(wanted)} cells, {len(missing)} to compute", flush=True)
    cells.run(plan.groups(missing, found), partial(plan.fill, sources=found), store, keys, jobs)
    timed = plan.timed(found, place.cache) if speed else []
    return report.write(
        store, wanted, found, options, out=place.out, folder=place.pictures, encoder=encoder, speed=timed
    )
