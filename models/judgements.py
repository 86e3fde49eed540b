"""The judgement schema: what a user said about texts, read from JSON Lines and checked line by line.

A line has `user` and `context` and one of: `chosen`, `rejected` (`strength`?) · `item`, `rating` (`scale`?) ·
`item`, `vote` · `ranking` (texts, best first) · `before`, `after`. Unknown keys are tolerated.
"""

import gzip
import itertools
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

Kind = Literal["pair", "rating", "vote", "ranking", "edit"]

MAX_TEXT_CHARS: Final = 1_000_000


class JudgementError(ValueError):
    """A judgement file cannot be read.

    Attributes:
        path: The file.
        line: Line number from 1, or 0 for the file as a whole.
        problem: What is wrong.
    """

    def __init__(self, path: Path, line: int, problem: str) -> None:
        self.path, self.line, self.problem = path, line, problem
        super().__init__(f"{path}:{line}: {problem}" if line else f"{path}: {problem}")


@dataclass(frozen=True)
class Judgement:
    """One judgement of one user.

    Attributes:
        user: Who judged.
        context: The prompt, question or page the texts answer.
        kind: What was said.
        texts: Winner first: (chosen, rejected), (after, before), (best, …, worst), or the one item rated.
        value: The rating or vote (+1, -1); 0.0 for comparisons.
        scale: Lowest and highest possible rating.
        source: Set or channel it came from; ratings of one source share offset, slope and noise.
        own: The judge wrote the text (left out of evaluations).
    """

    user: str
    context: str
    kind: Kind
    texts: tuple[str, ...]
    value: float = 0.0
    scale: tuple[float, float] = (-1.0, 1.0)
    source: str = "default"
    own: bool = False

    @property
    def normalised(self) -> float:
        """The rating moved to [-1, 1] by its scale."""
        low, high = self.scale
        return 2 * (self.value - low) / (high - low) - 1

    def pairs(self) -> list[tuple[str, str]]:
        """Comparisons (better, worse) that it states; none for a rating or vote."""
        return [p for p in itertools.pairwise(self.texts) if p[0] != p[1]]


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
                    yield _parse(line.decode(), path, number, name)
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


class _Line:
    """One line of a file, whose complaints name the place."""

    def __init__(self, line: str, path: Path, number: int) -> None:
        self._path, self._number = path, number
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise self.fault(f"not JSON: {error.msg} at column {error.colno}") from error
        except (ValueError, RecursionError) as error:  # more digits than Python reads, or nested too deep
            raise self.fault(f"not JSON that can be read: {error}") from error
        if not isinstance(row, dict):
            raise self.fault("not a JSON object")
        self.row: dict[str, object] = row

    def fault(self, problem: str) -> JudgementError:
        return JudgementError(self._path, self._number, problem)

    def text(self, key: str) -> str:
        return self._text(self.row.get(key), key)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.row[key]
        if not isinstance(value, list) or len(value) < 2:
            raise self.fault(f"'{key}' must be a list of at least two texts")
        return tuple(self._text(one, key) for one in value)

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"'{key}' must be a text that is not empty")
        if len(value) > MAX_TEXT_CHARS:
            raise self.fault(f"'{key}' has {len(value)} characters, the limit is {MAX_TEXT_CHARS}")
        return value

    def finite(self, value: object, key: str) -> float:
        try:
            number = (
                float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
            )
        except OverflowError:  # an integer beyond float64
            number = math.inf
        if not math.isfinite(number):
            raise self.fault(f"'{key}' must be a finite number")
        return number

    def scale(self) -> tuple[float, float]:
        """The declared scale, NaN where there is none."""
        bounds = self.row.get("scale")
        if bounds is None:
            return math.nan, math.nan
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise self.fault("'scale' must be [lowest, highest]")
        low, high = self.finite(bounds[0], "scale"), self.finite(bounds[1], "scale")
        if not low < high:
            raise self.fault(f"'scale' {bounds} must rise")
        return low, high


def _parse(line: str, path: Path, number: int, source: str) -> Judgement:
    at = _Line(line, path, number)
    context, named = at.row.get("context", ""), at.row.get("source")
    if not isinstance(context, str):
        raise at.fault("'context' must be a text")
    plain = Judgement(
        user=at.text("user"),
        context=context,
        kind="pair",
        texts=(),
        source=named if isinstance(named, str) and named else source,
        own=at.row.get("own") is True,
    )
    match at.row:
        case {"chosen": _} | {"rejected": _}:
            return replace(plain, texts=(at.text("chosen"), at.text("rejected")))
        case {"ranking": _}:
            return replace(plain, kind="ranking", texts=at.texts("ranking"))
        case {"before": _} | {"after": _}:
            return replace(plain, kind="edit", texts=(at.text("after"), at.text("before")))
        case {"vote": vote}:
            value = at.finite(vote, "vote")
            if value not in (-1.0, 1.0):
                raise at.fault("'vote' must be 1 or -1")
            return replace(plain, kind="vote", texts=(at.text("item"),), value=value)
        case {"rating": rating}:
            value, scale = at.finite(rating, "rating"), at.scale()
            if not math.isnan(scale[0]) and not scale[0] <= value <= scale[1]:
                raise at.fault(f"'rating' {value} is not within 'scale' {list(scale)}")
            return replace(plain, kind="rating", texts=(at.text("item"),), value=value, scale=scale)
        case _:
            raise at.fault(
                "needs one of: chosen + rejected, item + rating, item + vote, ranking, before + after"
            )
