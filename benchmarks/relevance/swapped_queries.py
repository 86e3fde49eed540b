"""Part `queries`: with the wrong question, the ranking must be no better than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.relevance import metrics
from benchmarks.relevance.baselines import cosine_orders
from benchmarks.relevance.metrics import Figure
from benchmarks.relevance.plan import NONE
from benchmarks.relevance.questions import QuestionSet
from benchmarks.relevance.study import Study, ndcgs


@dataclass(frozen=True)
class QueryRow:
    """Rankings with the wrong question.

    Attributes:
        questions: Name of the set.
        query: What was sent as the question.
        ndcg: nDCG@10 of the population's rankings.
        above_chance: That nDCG@10 minus its expected value over random orders, paired by question.
        cosine_above_chance: The same difference of the cosine's rankings. None if there was no question.
    """

    questions: str
    query: str
    ndcg: Figure
    above_chance: Figure
    cosine_above_chance: Figure | None

    @property
    def passed(self) -> bool:
        """Whether the rankings are not above chance."""
        return self.above_chance.low <= 0


def measure_swapped_queries(study: Study, embeddings: Mapping[str, NDArray[np.float32]]) -> list[QueryRow]:
    """Return a row for each set and kind of wrong question."""
    return [
        _measure(study, questions, kind, queries, embeddings)
        for questions in study.plan.sets
        for kind, queries in study.plan.wrong_queries(questions).items()
    ]


def _measure(
    study: Study,
    questions: QuestionSet,
    kind: str,
    queries: Sequence[str],
    embeddings: Mapping[str, NDArray[np.float32]],
) -> QueryRow:
    chance = np.array([metrics.expected_ndcg(q.relevance) for q in questions.questions])
    found = ndcgs(questions, study.rank(questions, queries))
    cosine = None
    if kind != NONE:
        cosine = metrics.mean(ndcgs(questions, cosine_orders(questions, queries, embeddings)) - chance)
    return QueryRow(questions.name, kind, metrics.mean(found), metrics.mean(found - chance), cosine)
