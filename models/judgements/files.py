"""Judgement files: JSON Lines of what users said about texts (`lines` has the keys), read and checked."""

import gzip
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from penchant.models.judgements.judgement import Judgement, JudgementError
from penchant.models.judgements.lines import parse


def read(path: str | Path, *, source: str | None = None) -> Iterator[Judgement]:
    """Judgements of a `.jsonl` or `.jsonl.gz` file, in file order, one line in memory at a time.

    A rating's scale is the line's `scale`, else the range of the ratings in the file (`scales` does that afterwards).

    Args:
        path: The file.
        source: Name of the source; the line's own `source`, else `source_name`, where None.

    Raises:
        JudgementError: The file cannot be read, or a line is no judgement; with the line's number.
    """
    path = Path(path)
    name = source or source_name(path)
    number = 0
    try:
        # Bytes, decoded line by line: a bad byte is then reported where it stands.
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield parse(line.decode(), path, number, name)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: {error.reason} at byte {error.start + 1} of the line"
        raise JudgementError(path, number, problem) from error
    except (OSError, EOFError, zlib.error) as error:
        raise JudgementError(path, number + 1 if number else 0, str(error)) from error


def source_name(path: Path) -> str:
    """The file's stem, or its folder's name where the file is just called data.jsonl(.gz)."""
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return path.resolve().parent.name if stem == "data" else stem


def load(paths: Iterable[str | Path]) -> list[Judgement]:
    """All judgements of several files; ratings without a scale get the range seen in their source.

    Raises:
        JudgementError: As `read`; also for a file without any judgement.
    """
    found: list[Judgement] = []
    for path in paths:
        rows = list(read(path))
        if not rows:
            raise JudgementError(Path(path), 0, "holds no judgement")
        found += rows
    return with_scales(found)


def with_scales(judgements: list[Judgement]) -> list[Judgement]:
    """Gives ratings without a declared scale the range of the ratings of their source."""
    ranges: dict[str, tuple[float, float]] = {}
    for j in judgements:
        if j.kind == "rating" and math.isnan(j.scale[0]):
            low, high = ranges.get(j.source, (j.value, j.value))
            ranges[j.source] = (min(low, j.value), max(high, j.value))
    # A source whose ratings are all equal has no range; any width serves, it says nothing about differences.
    spans = {s: (low, high if high > low else low + 1.0) for s, (low, high) in ranges.items()}
    return [replace(j, scale=spans[j.source]) if math.isnan(j.scale[0]) else j for j in judgements]
