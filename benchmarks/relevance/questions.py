"""Question sets: questions, their candidates, and how relevant each candidate is."""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FACTS: Final = Path(__file__).with_name("facts.jsonl")
"""Factual questions with single sentences as candidates, written for this benchmark."""

CRANFIELD: Final = Path("cranfield") / "questions.jsonl.gz"
FACTS_CANDIDATES: Final = 20
SEED: Final = 11


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: The question.
        candidates: n candidates, in the order in which they are sent.
        relevance: `[n]` relevance, 0 for a candidate that does not answer the question.
        bm25: `[n]` BM25 scores that the set provides. None if it provides none.
    """

    text: str
    candidates: tuple[str, ...]
    relevance: NDArray[np.float64]
    bm25: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class QuestionSet:
    """A set of questions.

    Attributes:
        name: Name in the report.
        questions: The questions. Each has a relevant candidate.
    """

    name: str
    questions: tuple[Question, ...]

    @property
    def texts(self) -> list[str]:
        """All distinct candidates, in order of first appearance."""
        return list(dict.fromkeys(text for question in self.questions for text in question.candidates))

    @property
    def items(self) -> list[tuple[str, str]]:
        """All distinct (question, candidate) pairs, in order of first appearance."""
        return list(
            dict.fromkeys(
                (question.text, text) for question in self.questions for text in question.candidates
            )
        )


def load_sets(data: Path, names: Sequence[str]) -> list[QuestionSet]:
    """Return the named question sets.

    Args:
        data: Folder that holds `cranfield/questions.jsonl.gz`.
        names: Any of `cranfield` and `facts`.

    Raises:
        FileNotFoundError: If a set's file does not exist.
        ValueError: If a set is unknown, or a line is not a question with a relevant candidate.
    """
    loaders = {"cranfield": lambda: load_cranfield(data / CRANFIELD), "facts": load_facts}
    if unknown := sorted(set(names) - set(loaders)):
        raise ValueError(f"Unknown set: {', '.join(unknown)}. Choose from {', '.join(loaders)}.")
    return [loaders[name]() for name in names]


def load_cranfield(path: Path) -> QuestionSet:
    """Return the set in a gzip JSON Lines file with `query`, `documents`, `relevance` and `bm25`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a line is not a question with a relevant candidate.
    """
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return QuestionSet(
        "cranfield",
        _checked(
            path,
            (
                Question(
                    row["query"],
                    tuple(row["documents"]),
                    np.array(row["relevance"], np.float64),
                    np.array(row["bm25"], np.float64) if "bm25" in row else None,
                )
                for row in rows
            ),
        ),
    )


def load_facts(path: Path = FACTS, candidates: int = FACTS_CANDIDATES) -> QuestionSet:
    """Return the set of factual questions.

    The candidates of a question are its answers, the sentences on the same subject that do not answer it, and sentences
    of other questions, in a seeded order.

    Args:
        path: JSON Lines file with `question`, `answers` (each with `text` and `relevance`) and `others`.
        candidates: Number of candidates of each question, or all of its own sentences if those are more.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a line is not a question with a relevant candidate.
    """
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rng = np.random.default_rng(SEED)
    pool = [text for row in rows for text in _own(row)]
    return QuestionSet("facts", _checked(path, (_draw(row, pool, candidates, rng) for row in rows)))


def _own(row: dict[str, Any]) -> list[str]:
    return [*(answer["text"] for answer in row["answers"]), *row["others"]]


def _draw(row: dict[str, Any], pool: Sequence[str], candidates: int, rng: np.random.Generator) -> Question:
    """Fill the candidates of a question with sentences of others, and shuffle them."""
    own = _own(row)
    foreign = [text for text in pool if text not in own]
    number = min(max(candidates - len(own), 0), len(foreign))
    texts = own + [foreign[i] for i in rng.choice(len(foreign), number, replace=False)]
    relevance = np.zeros(len(texts))
    relevance[: len(row["answers"])] = [answer["relevance"] for answer in row["answers"]]
    order = rng.permutation(len(texts))
    return Question(row["question"], tuple(texts[i] for i in order), relevance[order])


def _checked(path: Path, questions: Iterable[Question]) -> tuple[Question, ...]:
    checked = tuple(questions)
    for number, question in enumerate(checked, start=1):
        if len(question.relevance) != len(question.candidates) or not (question.relevance > 0).any():
            raise ValueError(
                f"{path}, line {number}: {len(question.candidates)} candidates with {len(question.relevance)} "
                f"relevance labels; a question needs one label a candidate, and one above 0"
            )
    return checked
