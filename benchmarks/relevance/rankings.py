"""Part `rankings`: how well rankings for no user answer the questions, beside chance, BM25 and the cosine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.relevance import metrics
from benchmarks.relevance.baselines import bm25_orders, cosine_orders
from benchmarks.relevance.metrics import Figure
from benchmarks.relevance.questions import QuestionSet
from benchmarks.relevance.study import Study, ndcgs

Embeddings = Mapping[str, NDArray[np.float32]]

CHANCE: Final = "chance"
BM25: Final = "BM25"
COSINE: Final = "cosine"
OURS: Final = "penchant, no user"


@dataclass(frozen=True)
class RankingRow:
    """How well one system answers the questions of a set.

    Attributes:
        questions: Name of the set.
        system: Name of the system.
        ndcg: nDCG@10.
        mrr: Mean reciprocal rank.
        of_cosine: nDCG@10 as a share of the cosine's, paired by question.
    """

    questions: str
    system: str
    ndcg: Figure
    mrr: Figure
    of_cosine: Figure


def measure_rankings(study: Study, embeddings: Embeddings) -> list[RankingRow]:
    """Return the figures of chance, BM25, the cosine and the population on each set.

    Args:
        study: Sets and ranker.
        embeddings: Unit vector of every question and candidate.
    """
    return [row for questions in study.plan.sets for row in _measure(study, questions, embeddings)]


def _measure(study: Study, questions: QuestionSet, embeddings: Embeddings) -> list[RankingRow]:
    orders = {
        BM25: bm25_orders(questions),
        COSINE: cosine_orders(questions, [q.text for q in questions.questions], embeddings),
        OURS: study.population(questions),
    }
    found = {
        CHANCE: (
            np.array([metrics.expected_ndcg(q.relevance) for q in questions.questions]),
            np.array([metrics.expected_reciprocal_rank(q.relevance) for q in questions.questions]),
        )
    }
    for system, ranked in orders.items():
        ranks = [
            metrics.reciprocal_rank(q.relevance, order)
            for q, order in zip(questions.questions, ranked, strict=True)
        ]
        found[system] = (ndcgs(questions, ranked), np.array(ranks))
    cosine = found[COSINE][0]
    return [
        RankingRow(
            questions.name, system, metrics.mean(ndcg), metrics.mean(ranks), metrics.ratio(ndcg, cosine)
        )
        for system, (ndcg, ranks) in found.items()
    ]
