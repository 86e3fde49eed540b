"""One line of a judgement file: parsed, checked, and complained of with its place.

A line has `user` and `context` and one of: `chosen`, `rejected` (`strength`?) · `candidates` (those shown), `index`
(the one picked) · `ranking` (texts, best first) · `order` (lists of tied texts, best first) · `item`, `vote` · `item`,
`rating` (`scale`?) · `before`, `after`. Each may have a `weight` in (0, 1], a `source`, and `own`. Unknown keys are
tolerated.
"""

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Final, NamedTuple

from penchant.models.judgements.edits import edit_weight
from penchant.models.judgements.judgement import Judgement, JudgementError, Kind

MAX_TEXT_CHARS: Final = 1_000_000

NO_SCALE: Final = (math.nan, math.nan)
"""Of a rating whose line declares none."""


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

    def choice(self) -> tuple[str, ...]:
        """The one picked, then the others shown."""
        shown, index = self.texts("candidates"), self.row.get("index")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(shown):
            raise self.fault(f"'index' must be a whole number from 0 to {len(shown) - 1}")
        return shown[index], *shown[:index], *shown[index + 1 :]

    def order(self) -> list[tuple[str, ...]]:
        """Groups of tied texts, best first."""
        value = self.row["order"]
        if not isinstance(value, list) or not all(isinstance(group, list) and group for group in value):
            raise self.fault("'order' must be a list of lists of tied texts")
        groups = [tuple(self._text(one, "order") for one in group) for group in value]
        if sum(len(group) for group in groups) < 2:
            raise self.fault("'order' must hold at least two texts")
        return groups

    def share(self, key: str) -> float:
        """A number in (0, 1], 1 where there is none."""
        if self.row.get(key) is None:
            return 1.0
        value = self.finite(self.row[key], key)
        if not 0 < value <= 1:
            raise self.fault(f"'{key}' must be above 0 and at most 1, is {value:g}")
        return value

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"'{key}' must be a text that is not empty")
        if len(value) > MAX_TEXT_CHARS:
            raise self.fault(f"'{key}' has {len(value)} characters, the limit is {MAX_TEXT_CHARS}")
        return sys.intern(value)

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
            return NO_SCALE
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise self.fault("'scale' must be [lowest, highest]")
        low, high = self.finite(bounds[0], "scale"), self.finite(bounds[1], "scale")
        if not low < high:
            raise self.fault(f"'scale' {bounds} must rise")
        return low, high


def parse(line: str, path: Path, number: int, source: str) -> Judgement:
    """The judgement of a line; equal texts and names are one object in memory.

    Args:
        line: JSON.
        path: Of the file, for complaints.
        number: Of the line, from 1.
        source: Where the line names none.

    Raises:
        JudgementError: It is no judgement.
    """
    at = _Line(line, path, number)
    context, named = at.row.get("context", ""), at.row.get("source")
    if not isinstance(context, str):
        raise at.fault("'context' must be a text")
    said = _said(at)
    return Judgement(
        user=at.text("user"),
        context=sys.intern(context),
        kind=said.kind,
        texts=said.texts,
        value=said.value,
        scale=said.scale,
        source=sys.intern(named) if isinstance(named, str) and named else source,
        own=at.row.get("own") is True,
        weight=said.weight * at.share("weight"),
        groups=said.groups,
    )


class _Said(NamedTuple):
    """What differs from kind to kind; as in `Judgement`."""

    kind: Kind
    texts: tuple[str, ...]
    value: float = 0.0
    scale: tuple[float, float] = (-1.0, 1.0)
    weight: float = 1.0
    groups: tuple[int, ...] = ()


def _said(at: _Line) -> _Said:
    match at.row:
        case {"chosen": _} | {"rejected": _}:
            said = _Said("pair", (at.text("chosen"), at.text("rejected")), weight=at.share("strength"))
        case {"candidates": _}:
            texts = at.choice()
            said = _Said("choice", texts, groups=(1, len(texts) - 1))
        case {"ranking": _}:
            said = _Said("ranking", at.texts("ranking"))
        case {"order": _}:
            order = at.order()
            sizes = tuple(len(group) for group in order)
            said = _Said("ranking", tuple(itertools.chain(*order)), groups=sizes if max(sizes) > 1 else ())
        case {"before": _} | {"after": _}:
            after, before = at.text("after"), at.text("before")
            said = _Said("edit", (after, before), weight=edit_weight(before, after))
        case {"vote": vote}:
            value = at.finite(vote, "vote")
            if value not in (-1.0, 1.0):
                raise at.fault("'vote' must be 1 or -1")
            said = _Said("vote", (at.text("item"),), value)
        case {"rating": rating}:
            value, scale = at.finite(rating, "rating"), at.scale()
            if not math.isnan(scale[0]) and not scale[0] <= value <= scale[1]:
                raise at.fault(f"'rating' {value} is not within 'scale' {list(scale)}")
            said = _Said("rating", (at.text("item"),), value, scale)
        case _:
            raise at.fault(
                "needs one of: chosen + rejected, candidates + index, ranking, order, item + vote, item + rating, "
                "before + after"
            )
    return said
