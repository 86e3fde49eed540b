"""Planted users of style: each likes more or less of one attribute, and judges pairs of texts by it alone.

Two users of a style judge pairs of candidates of one half of the questions each, and are measured on the other half.
Every question counts, and none was judged by the user who is measured on it. Relevance labels play no part in the
choice of pairs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.relevance.questions import Question, QuestionSet
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES, compute_attributes

Vector = NDArray[np.float64]
Variant = Literal["prompts", "texts", "elsewhere"]

ATTRIBUTES: Final = ("length", "sentence_length", "long_words", "function_words", "digits")
VARIANTS: Final[tuple[Variant, ...]] = ("prompts", "texts", "elsewhere")
"""Judged with the question as prompt, without any prompt, or on another set (with its questions as prompts)."""

JUDGEMENTS: Final = 30
TOP: Final = 3
CLEAR: Final = 1.0
"""Smallest difference of a judged pair, in standard deviations of the attribute among the question's candidates."""

ROOM: Final = 0.75
"""Smallest mean distance of the three most extreme candidates from the mean of all, in standard deviations."""

SAME: Final = 0.95
"""Correlation above which two attributes are the same style in a set."""


@dataclass(frozen=True)
class Style:
    """What a planted user likes.

    Attributes:
        attribute: Name of the attribute.
        sign: 1 if the user likes more of it, −1 if less.
    """

    attribute: str
    sign: int

    @property
    def name(self) -> str:
        """Readable name."""
        return f"{'more' if self.sign > 0 else 'less'} {self.attribute}"


@dataclass(frozen=True)
class Preference:
    """One judgement of a planted user.

    Attributes:
        prompt: The question, or an empty string for a user who judges texts without one.
        chosen: The text with more of what the user likes.
        rejected: The other text.
    """

    prompt: str
    chosen: str
    rejected: str


@cache
def _attributes(text: str) -> tuple[float, ...]:
    return tuple(compute_attributes(text))


def attribute_of(texts: Sequence[str], attribute: str) -> Vector:
    """Return the attribute of each text, `[n]`."""
    column = ATTRIBUTE_NAMES.index(attribute)
    return np.array([_attributes(text)[column] for text in texts])


def choose_styles(questions: QuestionSet) -> tuple[list[Style], dict[str, str]]:
    """Return the styles that a set allows to measure, and why others were left out, by name."""
    styles: list[Style] = []
    left_out: dict[str, str] = {}
    kept: dict[str, Vector] = {}
    for attribute in ATTRIBUTES:
        rows = [attribute_of(q.candidates, attribute) for q in questions.questions]
        pooled = np.concatenate([row - row.mean() for row in rows])
        twin = next((name for name, other in kept.items() if _correlation(pooled, other) > SAME), None)
        if twin is not None:
            left_out[attribute] = f"the same as {twin} in this set"
            continue
        kept[attribute] = pooled
        for style in (Style(attribute, 1), Style(attribute, -1)):
            room = np.nanmean([_room(row, style.sign) for row in rows])
            if room >= ROOM:
                styles.append(style)
            else:
                left_out[style.name] = (
                    f"three candidates of a question lie at most {room:.2f} standard deviations on that side of its mean"
                )
    return styles, left_out


def _correlation(a: Vector, b: Vector) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _room(values: Vector, sign: int) -> float:
    """Distance of the three most extreme values from the mean, in standard deviations. 0 if all are equal."""
    deviation = values.std()
    extreme = np.sort(sign * values)[-TOP:].mean()
    return float((extreme - sign * values.mean()) / deviation) if deviation > 0 else 0.0


def halves(questions: QuestionSet) -> NDArray[np.int64]:
    """Return the half, 0 or 1, of each question. Questions that share their text are in one half."""
    first = {q.text: i for i, q in reversed(list(enumerate(questions.questions)))}
    rng = _rng("halves", questions.name)
    numbers = rng.permutation(len(questions.questions)) % 2
    return np.array([numbers[first[q.text]] for q in questions.questions])


def judgements_of(
    style: Style, half: int, questions: QuestionSet, *, variant: Variant, elsewhere: QuestionSet | None = None
) -> list[Preference]:
    """Return the judgements of a user who is measured on one half of the questions.

    Args:
        style: What the user likes.
        half: The half that the user is measured on. The judged texts are candidates of the other half.
        questions: The set that the user is measured on.
        variant: What the user judges.
        elsewhere: Another set, whose candidates the user judges in place of those of the other half.

    Raises:
        ValueError: If too few pairs differ clearly in the attribute.
    """
    if elsewhere is not None:
        judged = list(elsewhere.questions)
    else:
        numbers = halves(questions)
        judged = [q for q, number in zip(questions.questions, numbers, strict=True) if number != half]
    rng = _rng(questions.name, style.attribute, variant, str(half))
    found = []
    for question, more, less in _draw_pairs(judged, style.attribute, rng):
        chosen, rejected = (more, less) if style.sign > 0 else (less, more)
        found.append(Preference("" if variant == "texts" else question.text, chosen, rejected))
    return found


def _draw_pairs(
    questions: Sequence[Question], attribute: str, rng: np.random.Generator
) -> list[tuple[Question, str, str]]:
    """Draw pairs of candidates of one question that differ clearly: (question, text with more, text with less)."""
    pairs: list[tuple[Question, str, str]] = []
    for _ in range(100 * JUDGEMENTS):
        question = questions[rng.integers(len(questions))]
        values = attribute_of(question.candidates, attribute)
        i, j = rng.choice(len(values), 2, replace=False)
        if values[i] < values[j]:
            i, j = j, i
        pair = (question, question.candidates[i], question.candidates[j])
        if values[i] - values[j] >= CLEAR * values.std() > 0 and pair not in pairs:
            pairs.append(pair)
        if len(pairs) == JUDGEMENTS:
            return pairs
    raise ValueError(f"only {len(pairs)} pairs differ clearly in {attribute}; a user needs {JUDGEMENTS}")


def shift(question: Question, style: Style, order: Sequence[int], reference: Sequence[int]) -> float:
    """Return how far the top three of an order are from those of a reference, in the direction that a user likes.

    The unit is the standard deviation of the attribute among the question's candidates. NaN if that is 0.
    """
    values = attribute_of(question.candidates, style.attribute)
    deviation = values.std()
    if not deviation:
        return float("nan")
    moved = values[list(order[:TOP])].mean() - values[list(reference[:TOP])].mean()
    return float(style.sign * moved / deviation)


def _rng(*names: str) -> np.random.Generator:
    digest = hashlib.blake2b("\x1f".join(names).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
