"""Part `queries`: with the wrong question, rankings must be no better than chance, or than with no question."""

from collections.abc import Mapping
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
        above_none: That nDCG@10 minus the nDCG@10 without a question, paired by question.
        cosine_above_chance: The same difference of the cosine's rankings. None if there was no question.
    """

    questions: str
    query: str
    ndcg: Figure
    above_chance: Figure
    above_none: Figure
    cosine_above_chance: Figure | None

    @property
    def passed(self) -> bool:
        """Whether the wrong question gives no more than chance, or than no question at all."""
        return self.above_chance.low <= 0 or self.above_none.low <= 0


def measure_swapped_queries(study: Study, embeddings: Mapping[str, NDArray[np.float32]]) -> list[QueryRow]:
    """Return a row for each set and kind of wrong question.

    Args:
        study: Sets and ranker.
        embeddings: Unit vector of every question and candidate.
    """
    return [row for questions in study.plan.sets for row in _measure(study, questions, embeddings)]


def _measure(
    study: Study, questions: QuestionSet, embeddings: Mapping[str, NDArray[np.float32]]
) -> list[QueryRow]:
    chance = np.array([metrics.expected_ndcg(q.relevance) for q in questions.questions])
    wrong = study.plan.wrong_queries(questions)
    without = ndcgs(questions, study.rank(questions, wrong[NONE]))
    rows = []
    for kind, queries in wrong.items():
        found, cosine = without, None
        if kind != NONE:
            found = ndcgs(questions, study.rank(questions, queries))
            cosine = metrics.mean(ndcgs(questions, cosine_orders(questions, queries, embeddings)) - chance)
        rows.append(
            QueryRow(
                questions.name,
                kind,
                metrics.mean(found),
                metrics.mean(found - chance),
                metrics.mean(found - without),
                cosine,
            )
        )
    return rows
