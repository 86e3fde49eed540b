"""The judgement schema: what a user said about texts, read from JSON Lines and checked line by line.

A line has `user` and `context` and one of: `chosen`, `rejected` (`strength`?) · `item`, `rating` (`scale`?) ·
`item`, `vote` · `ranking` (texts, best first) · `before`, `after`. Unknown keys are tolerated.
"""

import gzip
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

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
        return [p for p in zip(self.texts, self.texts[1:], strict=False) if p[0] != p[1]]


def read(path: str | Path, *, source: str | None = None) -> Iterator[Judgement]:
    """Judgements of a `.jsonl` or `.jsonl.gz` file, in file order, one line in memory at a time.

    A rating's scale is the line's `scale`, else the range of the ratings in the file (`scales` does that afterwards).

    Args:
        path: The file.
        source: Name of the source; the line's own `source`, else the file's stem, where None.

    Raises:
        JudgementError: The file cannot be read, or a line is no judgement; with the line's number.
    """
    path = Path(path)
    name = source or path.name.removesuffix(".gz").removesuffix(".jsonl")
    number = 0
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as lines
        ):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, path, number, name)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise JudgementError(path, number + 1 if number else 0, str(error)) from error


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


def _parse(line: str, path: Path, number: int, source: str) -> Judgement:
    def fail(problem: str) -> NoReturn:
        raise JudgementError(path, number, problem)

    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        fail(f"not JSON: {error.msg} at column {error.colno}")
    if not isinstance(row, dict):
        fail("not a JSON object")

    def text(value: Any, key: str) -> str:
        if not isinstance(value, str) or not value.strip():
            fail(f"'{key}' must be a text that is not empty")
        if len(value) > MAX_TEXT_CHARS:
            fail(f"'{key}' has {len(value)} characters, the limit is {MAX_TEXT_CHARS}")
        return str(value)

    def number_of(value: Any, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            fail(f"'{key}' must be a finite number")
        return float(value)

    user = text(row.get("user"), "user")
    context = row.get("context", "")
    if not isinstance(context, str):
        fail("'context' must be a text")
    named = row.get("source")
    common: dict[str, Any] = {
        "user": user,
        "context": context,
        "source": named if isinstance(named, str) and named else source,
        "own": row.get("own") is True,
    }
    if "chosen" in row or "rejected" in row:
        texts = (text(row.get("chosen"), "chosen"), text(row.get("rejected"), "rejected"))
        return Judgement(kind="pair", texts=texts, **common)
    if "ranking" in row:
        order = row["ranking"]
        if not isinstance(order, list) or len(order) < 2:
            fail("'ranking' must be a list of at least two texts")
        return Judgement(kind="ranking", texts=tuple(text(t, "ranking") for t in order), **common)
    if "before" in row or "after" in row:
        texts = (text(row.get("after"), "after"), text(row.get("before"), "before"))
        return Judgement(kind="edit", texts=texts, **common)
    if "vote" in row:
        value = number_of(row["vote"], "vote")
        if value not in (-1.0, 1.0):
            fail("'vote' must be 1 or -1")
        return Judgement(kind="vote", texts=(text(row.get("item"), "item"),), value=value, **common)
    if "rating" in row:
        value = number_of(row["rating"], "rating")
        scale = (math.nan, math.nan)
        if row.get("scale") is not None:
            bounds = row["scale"]
            if not isinstance(bounds, list) or len(bounds) != 2:
                fail("'scale' must be [lowest, highest]")
            scale = (number_of(bounds[0], "scale"), number_of(bounds[1], "scale"))
            if not scale[0] < scale[1] or not scale[0] <= value <= scale[1]:
                fail(f"'rating' {value} is not within 'scale' {bounds}")
        return Judgement(
            kind="rating", texts=(text(row.get("item"), "item"),), value=value, scale=scale, **common
        )
    fail("needs one of: chosen + rejected, item + rating, item + vote, ranking, before + after")
