"""Part `time`: what it costs to read the question, in one run and on one connection."""

import json
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.relevance import metrics
from benchmarks.relevance.metrics import Figure, Vector
from benchmarks.relevance.questions import Question, QuestionSet
from benchmarks.relevance.rankers import ServedRanker

ROUNDS: Final = 5
NONE, SAME, NEW = range(3)
"""Kinds of requests: no question, the question of the earlier rounds, a question that was never sent before."""

MAX_RATIO: Final = 1.10
"""Largest time of a request with a repeated question, as a multiple of one without."""


@dataclass(frozen=True)
class TimeRow:
    """Times of requests whose candidates are all cached.

    Attributes:
        questions: Name of the set.
        candidates: Mean number of candidates.
        none_ms: Median milliseconds without a question.
        same_ms: Median milliseconds with a question that was asked before.
        new_ms: Median milliseconds with a question that is new to the server.
        same_ratio: `same_ms` over `none_ms`, with an interval over questions.
        new_ratio: `new_ms` over `none_ms`, with an interval over questions.
    """

    questions: str
    candidates: float
    none_ms: float
    same_ms: float
    new_ms: float
    same_ratio: Figure
    new_ratio: Figure


def measure_time(ranker: ServedRanker, questions: QuestionSet, *, rounds: int = ROUNDS) -> TimeRow:
    """Time requests for the population. Those without and with the question alternate, and their order changes.

    Args:
        ranker: Server to send the requests to.
        questions: The set.
        rounds: Number of measured requests of each kind and question.
    """
    seconds = np.zeros((3, len(questions.questions), rounds))
    for number, question in enumerate(questions.questions):
        for kind in (NONE, SAME):  # after these, all candidates are cached with and without the question
            _seconds(ranker, question, kind, 0)
        for turn in range(rounds):
            for kind in ((NONE, SAME), (SAME, NONE))[turn % 2]:
                seconds[kind, number, turn] = _seconds(ranker, question, kind, turn)
        for turn in range(rounds):  # last, because a request after one that used the encoder takes longer
            seconds[NEW, number, turn] = _seconds(ranker, question, NEW, turn)
    by_question: Vector = np.median(seconds, axis=2)
    none, same, new = (1000 * float(np.median(seconds[kind])) for kind in (NONE, SAME, NEW))
    return TimeRow(
        questions.name,
        float(np.mean([len(q.candidates) for q in questions.questions])),
        none,
        same,
        new,
        metrics.median_ratio(by_question[SAME], by_question[NONE]),
        metrics.median_ratio(by_question[NEW], by_question[NONE]),
    )


def _seconds(ranker: ServedRanker, question: Question, kind: int, turn: int) -> float:
    query = ("", question.text, f"{question.text} ({turn})")[kind]
    body = json.dumps({"query": query, "documents": question.candidates}).encode()
    started = time.perf_counter()
    ranker.send(body)
    return time.perf_counter() - started
