"""One repetition of a split of a set, as every system gets it, and a system's answer."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.personalization.data import Source, Vectors
from penchant.models.evaluation.split import Mode, Split, TestPair, split
from penchant.models.judgements.judgement import Judgement

SHOTS: Final = (0, 3, 10, 30, 100)
"""Numbers of own judgements that an unseen user gives, or all of them if the user has fewer."""


@dataclass(frozen=True)
class Task:
    """Training judgements, unseen users' support and test pairs, and features.

    Attributes:
        name: Name of the set.
        mode: `cold` or `warm`.
        repetition: Number of the random split.
        parts: The split.
        vectors: Feature vector of every (context, text) of the set.
    """

    name: str
    mode: Mode
    repetition: int
    parts: Split
    vectors: Vectors

    @classmethod
    def of(cls, source: Source, mode: Mode, repetition: int) -> "Task":
        """Read a set, split it, and load features. Texts that only left-out users judged are not kept."""
        parts = split(source.judgements(), mode, repetition)
        return cls(source.name, mode, repetition, parts, source.vectors().subset(_items(parts)))

    @cached_property
    def asked(self) -> "Asked":
        """Test pairs by index."""
        return Asked.of(self.parts.test)


@dataclass(frozen=True)
class Asked:
    """n test pairs of U users, grouped by user.

    Attributes:
        users: `[n]` index of the user.
        texts: `[n, 2]` index of (better, worse) text.
        contexts: `[n]` index of the context.
        user_ids: `[U]` hash of the user's name, so that repetitions can be drawn together.
        text_ids: `[T]` hash of the text, so that repetitions can be drawn together.
        context_names: Names of the contexts.
    """

    users: NDArray[np.int64]
    texts: NDArray[np.int64]
    contexts: NDArray[np.int64]
    user_ids: NDArray[np.uint64]
    text_ids: NDArray[np.uint64]
    context_names: tuple[str, ...]

    @classmethod
    def of(cls, test: Mapping[str, Sequence[TestPair]]) -> "Asked":
        """Index test pairs in their order."""
        texts: dict[str, int] = {}
        contexts: dict[str, int] = {}
        users, rows, where = [], [], []
        for number, pairs in enumerate(test.values()):
            for pair in pairs:
                users.append(number)
                rows.append([texts.setdefault(text, len(texts)) for text in (pair.better, pair.worse)])
                where.append(contexts.setdefault(pair.context, len(contexts)))
        return cls(
            np.array(users, np.int64),
            np.array(rows, np.int64).reshape(-1, 2),
            np.array(where, np.int64),
            _ids(test),
            _ids(texts),
            tuple(contexts),
        )


@dataclass(frozen=True)
class Answer:
    """A system's predictions for one task.

    Attributes:
        better: By k, `[n]` P(better ≻ worse) of every test pair.
        notes: Chosen settings, and the seconds that it took.
    """

    better: Mapping[int, NDArray[np.float64]]
    notes: Mapping[str, Any] = field(default_factory=dict)


def reversed_judgement(judgement: Judgement) -> Judgement:
    """Return the judgement with the opposite opinion."""
    match judgement.kind:
        case "rating":
            return replace(judgement, value=sum(judgement.scale) - judgement.value)
        case "vote":
            return replace(judgement, value=-judgement.value)
        case _:
            return replace(judgement, texts=judgement.texts[::-1], groups=judgement.groups[::-1])


def _items(parts: Split) -> list[tuple[str, str]]:
    judged = [parts.train, *parts.support.values()]
    found = [(j.context, text) for rows in judged for j in rows for text in j.texts]
    return found + [
        (p.context, t) for pairs in parts.test.values() for p in pairs for t in (p.better, p.worse)
    ]


def _ids(names: Mapping[str, object]) -> NDArray[np.uint64]:
    digests = [hashlib.blake2b(n.encode("utf-8", "surrogatepass"), digest_size=8).digest() for n in names]
    return np.frombuffer(b"".join(digests), np.uint64)
