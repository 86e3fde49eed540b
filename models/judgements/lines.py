"""One line of a judgement file, read key by key. Every error names the file and the line."""

import json
import math
import sys
from pathlib import Path
from typing import Final

from penchant.models.errors import ModelError

MAX_TEXT_CHARS: Final = 1_000_000

NO_SCALE: Final = (math.nan, math.nan)
"""Stands for the scale of a rating whose line declares none."""


class JudgementError(ModelError, ValueError):
    """A judgement file cannot be read.

    Attributes:
        path: The file.
        line: Line number, starting at 1. 0 if the error concerns the whole file.
        problem: What is wrong.
    """

    def __init__(self, path: Path, line: int, problem: str) -> None:
        self.path, self.line, self.problem = path, line, problem
        super().__init__(f"{path}:{line}: {problem}" if line else f"{path}: {problem}")


class Line:
    """A line of a judgement file: a JSON object, with methods that read a key as a value of a certain type.

    Args:
        line: JSON.
        path: File that the line is from, for error messages.
        number: Line number, starting at 1.

    Attributes:
        row: The parsed object.

    Raises:
        JudgementError: If the line is not a JSON object; from the methods, if a value is missing or not valid.
    """

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
        """Return an error that names this line."""
        return JudgementError(self._path, self._number, problem)

    def text(self, key: str) -> str:
        """Return a text that is not blank. Equal texts are one object in memory."""
        return self._text(self.row.get(key), key)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of at least two texts."""
        value = self.row[key]
        if not isinstance(value, list) or len(value) < 2:
            raise self.fault(f"'{key}' must be a list of at least two texts")
        return tuple(self._text(item, key) for item in value)

    def groups(self, key: str) -> list[tuple[str, ...]]:
        """Return a list of lists of texts, at least two texts in all."""
        value = self.row[key]
        if not isinstance(value, list) or not all(isinstance(group, list) and group for group in value):
            raise self.fault(f"'{key}' must be a list of lists of tied texts")
        groups = [tuple(self._text(item, key) for item in group) for group in value]
        if sum(map(len, groups)) < 2:
            raise self.fault(f"'{key}' must hold at least two texts")
        return groups

    def index(self, key: str, number: int) -> int:
        """Return an index into a list of `number` items."""
        index = self.row.get(key)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < number:
            raise self.fault(f"'{key}' must be a whole number from 0 to {number - 1}")
        return index

    def share(self, key: str) -> float:
        """Return a number in (0, 1]. 1 if the key is missing."""
        if self.row.get(key) is None:
            return 1.0
        value = self.finite(self.row[key], key)
        if not 0 < value <= 1:
            raise self.fault(f"'{key}' must be above 0 and at most 1, is {value:g}")
        return value

    def finite(self, value: object, key: str) -> float:
        """Return a value as a finite number."""
        try:
            number = (
                float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
            )
        except OverflowError:  # an integer beyond float64
            number = math.inf
        if not math.isfinite(number):
            raise self.fault(f"'{key}' must be a finite number")
        return number

    def scale(self, key: str) -> tuple[float, float]:
        """Return [lowest, highest]. `NO_SCALE` if the key is missing."""
        bounds = self.row.get(key)
        if bounds is None:
            return NO_SCALE
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise self.fault(f"'{key}' must be [lowest, highest]")
        low, high = self.finite(bounds[0], key), self.finite(bounds[1], key)
        if not low < high:
            raise self.fault(f"'{key}' {bounds} must rise")
        return low, high

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"'{key}' must be a text that is not empty")
        if len(value) > MAX_TEXT_CHARS:
            raise self.fault(f"'{key}' has {len(value)} characters, the limit is {MAX_TEXT_CHARS}")
        return sys.intern(value)
