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
    """Where a run reads and writes.

    Attributes:
        out: Path of the JSON and the Markdown file, without ending.
        pictures: Folder of the learning curves.
        cache: Folder of features and of results so far.
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
    """Computes what is not there yet and writes the report.

    Args:
        data: A folder of folders, each with data.jsonl.gz.
        sets: Which of them; None means all.
        options: What is measured.
        encoder: Name of the text encoder.
        extractor: Loads it; called only where a text has to be encoded.
        place: Where things are.
        jobs: Processes.
        force: Compute everything again.
        speed: Time fitting as well.

    Returns:
        Every probe that did not come out as it must.
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
