"""The kinds of judgement: the fields of each on the wire, in the log and in a judgement file, and what each one states.

Every other module reads this table. A new kind is one class here, added to `ALL`, and its likelihood in
`models/taste/likelihood.py` if it has one of its own; the feedback endpoint, the log, judgement files and fits then take
it. What the methods are for is said in `base`.

A *payload* is a judgement as JSON: the fields that an app sent, or those that the log kept. A choice or a vote on a
candidate of an earlier ranking is sent with the candidate's index, and logged with the text itself.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from penchant.models.judgements.base import FULL_SCALE, Fault, JudgementKind, Payload, Statement, edit_weight
from penchant.models.judgements.lines import Line

Text = Annotated[str, Field(min_length=1)]


MAX_INDEX: Final = 2**31 - 1
"""Far above the number of texts in any ranking, and small enough for every log and every JSON parser."""


def _read_integer(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_vote(value: int) -> int:
    if value not in (1, -1):
        raise ValueError("A vote is 1 or -1.")
    return value


# In JSON, 1.0 is the integer 1.
Index = Annotated[int, Field(ge=0, le=MAX_INDEX), BeforeValidator(_read_integer)]

VoteValue = Annotated[
    int,
    AfterValidator(_check_vote),
    BeforeValidator(_read_integer),
    WithJsonSchema({"type": "integer", "enum": [1, -1]}),
]

Tied = Annotated[list[Text], Field(min_length=1, fail_fast=True, json_schema_extra={"uniqueItems": True})]


class Preference(JudgementKind):
    """The user prefers one text to another."""

    name = "pair"
    text_fields = line_keys = frozenset({"chosen", "rejected"})

    type: Literal["preference"]
    prompt: str | None = None
    chosen: Text
    rejected: Text
    strength: float | None = Field(default=None, gt=0, le=1, description="multiplies `weight`")

    def sent_texts(self) -> Iterator[tuple[str, str]]:
        yield "/chosen", self.chosen
        yield "/rejected", self.rejected

    @classmethod
    def texts(cls, payload: Payload) -> tuple[str, ...]:
        return payload["chosen"], payload["rejected"]

    @classmethod
    def statement(cls, payload: Payload) -> Statement:
        return Statement(cls.texts(payload), weight=payload.get("strength", 1.0))

    @classmethod
    def from_line(cls, line: Line) -> Payload:
        return {
            "chosen": line.text("chosen"),
            "rejected": line.text("rejected"),
            "strength": line.share("strength"),
        }

    @classmethod
    def to_line(cls, payload: Payload) -> dict[str, Any]:
        strength = {"strength": payload["strength"]} if "strength" in payload else {}
        return {"chosen": payload["chosen"], "rejected": payload["rejected"]} | strength


class Choice(JudgementKind):
    """The user picked one of those shown: given in full, or the candidates of a ranking."""

    name = "choice"
    text_fields = frozenset({"candidates", "chosen", "others"})
    line_keys = frozenset({"candidates"})
    sent_as = "candidates"
    shown_as = "seen"

    type: Literal["choice"]
    prompt: str | None = None
    candidates: list[Text] | None = Field(
        default=None,
        min_length=2,
        fail_fast=True,
        json_schema_extra={"uniqueItems": True},
        description="all that were shown",
    )
    index: Index = Field(description="the one picked, among `candidates` or those of the ranking")
    seen: list[Index] | None = Field(
        default=None,
        fail_fast=True,
        json_schema_extra={"uniqueItems": True},
        description="with `rank_id`: the candidates that were seen, all unless given; the one picked is implied",
    )

    def sent_texts(self) -> Iterator[tuple[str, str]]:
        for i, text in enumerate(self.candidates or ()):
            yield f"/candidates/{i}", text

    def faults(self) -> Iterator[Fault]:
        if self.candidates is None:
            known: set[int] = set()
            for i, index in enumerate(self.seen or ()):
                if index in known:
                    yield f"/seen/{i}", f"Candidate {index} is listed twice."
                known.add(index)
            return
        if self.seen is not None:
            yield "/seen", "`seen` is for a choice with a `rank_id`; list in `candidates` only what was seen."
        yield from super().faults()
        if self.index >= (number := len(self.candidates)):
            yield "/index", f"There are {number} candidates, so `index` must be from 0 to {number - 1}."

    @property
    def refers_to_ranking(self) -> bool:
        return self.candidates is None

    def candidates_of(self, number: int) -> list[tuple[str, int]]:
        if self.seen is None:
            others = [("/seen", i) for i in range(number)]
        else:
            others = [(f"/seen/{i}", index) for i, index in enumerate(self.seen)]
        return [("/index", self.index), *others]

    @classmethod
    def with_texts(cls, texts: Sequence[str]) -> dict[str, Any]:
        chosen, *others = texts
        return {"chosen": chosen, "others": others}

    @classmethod
    def texts(cls, payload: Payload) -> tuple[str, ...]:
        if (candidates := payload.get("candidates")) is not None:
            index = payload["index"]
            return candidates[index], *candidates[:index], *candidates[index + 1 :]
        return payload["chosen"], *payload["others"]

    @classmethod
    def statement(cls, payload: Payload) -> Statement:
        texts = cls.texts(payload)
        return Statement(texts, groups=cls.default_groups(len(texts)))

    @classmethod
    def default_groups(cls, number: int) -> tuple[int, ...]:
        return (1, number - 1) if number > 1 else (1,)

    @classmethod
    def can_judge(cls, number: int) -> bool:
        return number > 1

    @classmethod
    def from_line(cls, line: Line) -> Payload:
        candidates = line.texts("candidates")
        return {"candidates": candidates, "index": line.index("index", len(candidates))}

    @classmethod
    def to_line(cls, payload: Payload) -> dict[str, Any]:
        if (candidates := payload.get("candidates")) is not None:
            return {"candidates": candidates, "index": payload["index"]}
        return {"candidates": [payload["chosen"], *payload["others"]], "index": 0}


class Ranking(JudgementKind):
    """The user put texts in order."""

    name = "ranking"
    text_fields = frozenset({"order"})
    line_keys = frozenset({"ranking", "order"})

    type: Literal["ranking"]
    prompt: str | None = None
    order: list[Tied] = Field(
        min_length=1,
        fail_fast=True,
        json_schema_extra={"if": {"maxItems": 1}, "then": {"items": {"minItems": 2}}},
        description="best first; texts in one list are tied",
    )

    def sent_texts(self) -> Iterator[tuple[str, str]]:
        for i, tied in enumerate(self.order):
            for j, text in enumerate(tied):
                yield f"/order/{i}/{j}", text

    def faults(self) -> Iterator[Fault]:
        if sum(map(len, self.order)) < 2:
            yield "/order", "An order needs at least two texts."
        yield from super().faults()

    @classmethod
    def texts(cls, payload: Payload) -> tuple[str, ...]:
        return tuple(itertools.chain.from_iterable(payload["order"]))

    @classmethod
    def statement(cls, payload: Payload) -> Statement:
        return Statement(cls.texts(payload), groups=tuple(len(tied) for tied in payload["order"]))

    @classmethod
    def can_judge(cls, number: int) -> bool:
        return number > 1

    @classmethod
    def from_line(cls, line: Line) -> Payload:
        if "ranking" in line.row:
            return {"order": [[text] for text in line.texts("ranking")]}
        return {"order": line.groups("order")}

    @classmethod
    def to_line(cls, payload: Payload) -> dict[str, Any]:
        return {"order": payload["order"]}


class Edit(JudgementKind):
    """The user rewrote a text: the edited one is better, by how much was changed. An edit may change nothing."""

    name = "edit"
    text_fields = frozenset({"original", "edited"})
    line_keys = frozenset({"before", "after"})
    measures_change = True

    type: Literal["edit"]
    prompt: str | None = None
    original: Text
    edited: Text

    def sent_texts(self) -> Iterator[tuple[str, str]]:
        yield "/original", self.original
        yield "/edited", self.edited

    def faults(self) -> Iterator[Fault]:
        yield from ()

    @classmethod
    def texts(cls, payload: Payload) -> tuple[str, ...]:
        return payload["edited"], payload["original"]

    @classmethod
    def statement(cls, payload: Payload) -> Statement:
        edited, original = cls.texts(payload)
        return Statement((edited, original), weight=edit_weight(original, edited))

    @classmethod
    def from_line(cls, line: Line) -> Payload:
        return {"edited": line.text("after"), "original": line.text("before")}

    @classmethod
    def to_line(cls, payload: Payload) -> dict[str, Any]:
        return {"before": payload["original"], "after": payload["edited"]}

    @classmethod
    def in_line_order(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return texts[::-1]


class SingleText(JudgementKind):
    """A judgement of one text, given in full or as a candidate of a ranking."""

    text_fields = frozenset({"text"})
    sent_as = "text"
    shown_as = "index"

    prompt: str | None = None
    text: Text | None = None
    index: Index | None = None

    def sent_texts(self) -> Iterator[tuple[str, str]]:
        if self.text is not None:
            yield "/text", self.text

    def faults(self) -> Iterator[Fault]:
        if self.text is not None and self.index is not None:
            yield "/index", "Send either `text`, or `rank_id` and `index`."
        if self.text is None and self.index is None:
            yield "/index", "Which candidate of the ranking is judged? Send `index`, or `text`."

    @property
    def refers_to_ranking(self) -> bool:
        return self.text is None

    def candidates_of(self, number: int) -> list[tuple[str, int]]:  # noqa: ARG002
        return [] if self.index is None else [("/index", self.index)]

    @classmethod
    def with_texts(cls, texts: Sequence[str]) -> dict[str, Any]:
        return {"text": texts[0]}

    @classmethod
    def texts(cls, payload: Payload) -> tuple[str, ...]:
        return (payload["text"],)

    @classmethod
    def default_groups(cls, number: int) -> tuple[int, ...]:  # noqa: ARG003
        return ()

    @classmethod
    def can_judge(cls, number: int) -> bool:
        return number == 1


class Vote(SingleText):
    """The user finds a text good enough (1) or not (-1)."""

    name = "vote"
    form = "vote"
    line_keys = frozenset({"vote"})

    type: Literal["vote"]
    value: VoteValue

    @classmethod
    def statement(cls, payload: Payload) -> Statement:
        return Statement(cls.texts(payload), float(payload["value"]))

    @classmethod
    def from_line(cls, line: Line) -> Payload:
        value = line.finite(line.row["vote"], "vote")
        if value not in FULL_SCALE:
            raise line.fault("'vote' must be 1 or -1")
        return {"text": line.text("item"), "value": value}

    @classmethod
    def to_line(cls, payload: Payload) -> dict[str, Any]:
        return {"item": payload["text"], "vote": payload["value"]}


class Rating(SingleText):
    """The user rates a text within a scale."""

    name = "rating"
    form = "rating"
    line_keys = frozenset({"rating"})

    type: Literal["rating"]
    value: float
    scale: list[float] = Field(min_length=2, max_length=2, fail_fast=True, description="[lowest, highest]")

    def faults(self) -> Iterator[Fault]:
        low, high = self.scale
        if not low < high or not math.isfinite(high - low):
            yield "/scale", "A scale is [lowest, highest], with the lowest first and a finite width."
        elif not low <= self.value <= high:
            yield "/value", f"It is outside the scale [{low:g}, {high:g}]."
        yield from super().faults()

    @classmethod
    def statement(cls, payload: Payload) -> Statement:
        low, high = payload["scale"]
        return Statement(cls.texts(payload), payload["value"], (low, high))

    @classmethod
    def from_line(cls, line: Line) -> Payload:
        value, scale = line.finite(line.row["rating"], "rating"), line.scale("scale")
        if not math.isnan(scale[0]) and not scale[0] <= value <= scale[1]:
            raise line.fault(f"'rating' {value} is not within 'scale' {list(scale)}")
        return {"text": line.text("item"), "value": value, "scale": scale}

    @classmethod
    def to_line(cls, payload: Payload) -> dict[str, Any]:
        return {"item": payload["text"], "rating": payload["value"], "scale": payload["scale"]}


ALL: Final[tuple[type[JudgementKind], ...]] = (Preference, Choice, Ranking, Vote, Rating, Edit)

BY_TYPE: Final[Mapping[str, type[JudgementKind]]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in ALL
}
"""The kinds by their name on the wire and in the log."""

BY_NAME: Final[Mapping[str, type[JudgementKind]]] = {kind.name: kind for kind in ALL}
"""The kinds by the name that `Judgement` gives them."""
