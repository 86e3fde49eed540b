"""Judgement files: JSON Lines of what users stated about texts.

A line has `user` and `context`, and the keys of one kind of judgement (`kinds`): `chosen` and `rejected` (and
optionally `strength`); `candidates`, those shown, and `index`, the one picked; `ranking`, texts with the best first;
`order`, lists of tied texts with the best first; `item` and `vote`; `item` and `rating` (and optionally `scale`); or
`before` and `after`. Each line may have a `weight` in (0, 1], a `source`, and `own`. Unknown keys are ignored.
"""

import gzip
import math
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from penchant.models.judgements import kinds
from penchant.models.judgements.judgement import Judgement
from penchant.models.judgements.lines import JudgementError, Line


def read(path: str | Path, *, source: str | None = None) -> Iterator[Judgement]:
    """Yield the judgements of a `.jsonl` or `.jsonl.gz` file in file order, with one line in memory at a time.

    A rating without a declared scale has a scale of NaN. `with_scales` replaces it by the range of its source.

    Args:
        path: The file.
        source: Source of judgements that name none. `source_name(path)` if None.

    Raises:
        JudgementError: If the file cannot be read, or a line is not a judgement.
    """
    path = Path(path)
    name = source or source_name(path)
    number = 0
    try:
        # Bytes, decoded line by line, so that a bad byte is reported with its line.
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield parse(line.decode(), path, number, name)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: {error.reason} at byte {error.start + 1} of the line"
        raise JudgementError(path, number, problem) from error
    except (OSError, EOFError, zlib.error) as error:
        raise JudgementError(path, number + 1 if number else 0, str(error)) from error


def parse(text: str, path: Path, number: int, source: str) -> Judgement:
    """Return the judgement of a line. Equal texts and names are one object in memory.

    Args:
        text: The line, JSON.
        path: File that the line is from, for error messages.
        number: Line number, starting at 1.
        source: Source of the judgement if the line names none.

    Raises:
        JudgementError: If the line is not a judgement.
    """
    line = Line(text, path, number)
    context, own_source = line.row.get("context", ""), line.row.get("source")
    if not isinstance(context, str):
        raise line.fault("'context' must be a text")
    kind = next((kind for kind in kinds.ALL if not kind.line_keys.isdisjoint(line.row)), None)
    if kind is None:
        raise line.fault(
            "needs one of: chosen + rejected, candidates + index, ranking, order, item + vote, item + rating, "
            "before + after"
        )
    statement = kind.statement(kind.from_line(line))
    return Judgement(
        user=line.text("user"),
        context=sys.intern(context),
        kind=kind.name,
        texts=statement.texts,
        value=statement.value or 0.0,
        scale=statement.scale,
        source=sys.intern(own_source) if isinstance(own_source, str) and own_source else source,
        own=line.row.get("own") is True,
        weight=statement.weight * line.share("weight"),
        groups=statement.groups if max(statement.groups, default=1) > 1 else (),
    )


def source_name(path: Path) -> str:
    """Return the file's stem, or its folder's name if the file is called data.jsonl or data.jsonl.gz."""
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return path.resolve().parent.name if stem == "data" else stem


def load(paths: Iterable[str | Path]) -> list[Judgement]:
    """Return all judgements of several files. Ratings without a scale get the range of their source.

    Raises:
        JudgementError: If a file cannot be read or has no judgement, or a line is not a judgement.
    """
    judgements: list[Judgement] = []
    for path in paths:
        rows = list(read(path))
        if not rows:
            raise JudgementError(Path(path), 0, "holds no judgement")
        judgements += rows
    return with_scales(judgements)


def with_scales(judgements: list[Judgement]) -> list[Judgement]:
    """Return judgements whose ratings without a declared scale have the range of the ratings of their source."""
    ranges: dict[str, tuple[float, float]] = {}
    for judgement in judgements:
        if math.isnan(judgement.scale[0]):
            low, high = ranges.get(judgement.source, (judgement.value, judgement.value))
            ranges[judgement.source] = (min(low, judgement.value), max(high, judgement.value))
    # A source whose ratings are all equal has no range. Any width serves, as they carry no information on differences.
    scales = {source: (low, high if high > low else low + 1.0) for source, (low, high) in ranges.items()}
    return [
        replace(judgement, scale=scales[judgement.source]) if math.isnan(judgement.scale[0]) else judgement
        for judgement in judgements
    ]
