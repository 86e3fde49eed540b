"""What every kind of judgement has, and what a judgement states in the terms of the user model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict
from rapidfuzz.distance import Levenshtein

from penchant.models.judgements.lines import Line

Form = Literal["comparison", "vote", "rating"]
"""The likelihood of a judgement: an order of texts (Plackett–Luce), a yes or no, or a number on a scale."""

Payload: TypeAlias = Mapping[str, Any]
Fault: TypeAlias = tuple[str, str]
"""JSON pointer within the payload, and what is wrong there."""

FULL_SCALE: Final = (-1.0, 1.0)
MAX_COMPARED_CHARS: Final = 20_000
"""Longer texts are compared word by word, because the distance costs the product of the lengths."""


class Statement(NamedTuple):
    """What a judgement states, in the terms of the user model.

    Attributes:
        texts: Judged texts, winner first.
        value: The vote (1 or -1) or the rating, on its own scale. None for a comparison.
        scale: Lowest and highest possible value.
        groups: Sizes of the groups of tied texts, best first. Empty for a vote or a rating, and for two texts in order.
        weight: Power of the likelihood, in [0, 1]. 0 if the judgement carries no information.
    """

    texts: tuple[str, ...]
    value: float | None = None
    scale: tuple[float, float] = FULL_SCALE
    groups: tuple[int, ...] = ()
    weight: float = 1.0

    @property
    def normalised(self) -> float | None:
        """The value moved to [-1, 1] by its scale. None for a comparison."""
        return None if self.value is None else normalise(self.value, self.scale)


NO_STATEMENT: Final = Statement(())
"""States nothing about any text."""


def normalise(value: float, scale: tuple[float, float]) -> float:
    """Move a value from its scale [lowest, highest] to [-1, 1]."""
    low, high = scale
    return 2 * ((value - low) / (high - low)) - 1  # in this order: twice the widest scale would be infinite


def edit_weight(original: str, edited: str) -> float:
    """Return how much an edit changed: the normalised Levenshtein distance of the two texts, in [0, 1].

    Cost: O(n·m/64). Comparing 20,000 characters with as many takes about 15 ms.
    """
    if max(len(original), len(edited)) <= MAX_COMPARED_CHARS:
        return Levenshtein.normalized_distance(original, edited)
    if original == edited:
        return 0.0
    # Texts with equal words can still differ in their spaces, which is a small change but not none.
    words = Levenshtein.normalized_distance(original.split(), edited.split())
    return max(words, 1 / max(len(original), len(edited)))


class JudgementKind(BaseModel):
    """Base of the kinds. The fields of a subclass are those of its payload.

    Attributes:
        name: Name of the kind in `Judgement`.
        type: Name of the kind on the wire and in the log.
        form: Its likelihood.
        text_fields: Payload fields that hold texts, as sent or as logged.
        line_keys: Keys of which a line of a judgement file has at least one if it is of this kind.
        sent_as: Payload field that holds the texts if they are sent in full rather than by `rank_id`.
        shown_as: Payload field that is only for the candidates of a ranking, and never beside `sent_as`.
        measures_change: Whether the weight compares two texts, which takes time for long ones.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    name: ClassVar[str]
    form: ClassVar[Form] = "comparison"
    text_fields: ClassVar[frozenset[str]]
    line_keys: ClassVar[frozenset[str]]
    sent_as: ClassVar[str] = ""
    shown_as: ClassVar[str] = ""
    measures_change: ClassVar[bool] = False

    if TYPE_CHECKING:  # each subclass declares them, in the order of its schema
        type: str
        prompt: str | None

    # What an app sends

    def sent_texts(self) -> Iterator[tuple[str, str]]:
        """Yield the judged texts in the payload, each as (JSON pointer, text)."""
        raise NotImplementedError

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong with fields that are valid on their own but do not fit together."""
        seen: dict[str, str] = {}
        for pointer, text in self.sent_texts():
            if text in seen:
                yield (
                    pointer,
                    f"This is the same text as `{seen[text]}`; the texts of one judgement must differ.",
                )
            seen.setdefault(text, pointer)

    @property
    def refers_to_ranking(self) -> bool:
        """Whether the payload has the indices of a ranking's candidates in place of texts."""
        return False

    def candidates_of(self, number: int) -> list[tuple[str, int]]:
        """Return the candidates of a ranking that are judged, winner first, each as (JSON pointer, index).

        Args:
            number: Candidates that the ranking had.
        """
        raise NotImplementedError

    @classmethod
    def with_texts(cls, texts: Sequence[str]) -> dict[str, Any]:
        """Return the payload fields that hold the texts, winner first, of a judgement that referred to a ranking."""
        raise NotImplementedError

    # What a payload states. Each of these raises a KeyError if the texts were not kept.

    @classmethod
    def texts(cls, payload: Payload) -> tuple[str, ...]:
        """Return the judged texts, winner first."""
        raise NotImplementedError

    @classmethod
    def statement(cls, payload: Payload) -> Statement:
        """Return what the payload states. A choice or an order has its groups of tied texts."""
        return Statement(cls.texts(payload))

    @classmethod
    def default_groups(cls, number: int) -> tuple[int, ...]:
        """Return the sizes of the groups of tied texts if none are given."""
        return (1,) * number

    @classmethod
    def can_judge(cls, number: int) -> bool:
        """Return whether a judgement of this kind can be about so many texts."""
        return number == 2

    # Judgement files

    @classmethod
    def from_line(cls, line: Line) -> Payload:
        """Return the payload of a line of a judgement file.

        Raises:
            JudgementError: If a key is missing or has a value of the wrong type.
        """
        raise NotImplementedError

    @classmethod
    def to_line(cls, payload: Payload) -> dict[str, Any]:
        """Return the keys of a line of a judgement file that state the same as a payload."""
        raise NotImplementedError

    @classmethod
    def in_line_order(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Return texts, winner first, in the order of a line's keys."""
        return texts
