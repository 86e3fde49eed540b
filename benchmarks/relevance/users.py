"""Parts `users` and `curve`: planted users of style keep the answers on top while their taste moves the top three."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.relevance import metrics
from benchmarks.relevance.metrics import Figure
from benchmarks.relevance.questions import QuestionSet
from benchmarks.relevance.study import Study, ndcgs, shifts

KEPT: Final = 0.95
"""Smallest share of the population's nDCG@10 that a user of style keeps."""

MOVED: Final = 0.5
"""Smallest shift of the top three, in standard deviations."""

SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Values of `personalization` on the curve."""


@dataclass(frozen=True)
class UserRow:
    """One planted user on one set.

    Attributes:
        questions: Name of the set.
        variant: What the user judged.
        style: What the user likes.
        ndcg: nDCG@10 of the user's rankings.
        kept: That nDCG@10 as a share of the population's.
        shift: How far the top three moved in the direction that the user likes, in standard deviations.
    """

    questions: str
    variant: str
    style: str
    ndcg: Figure
    kept: Figure
    shift: Figure

    @property
    def keeps(self) -> bool:
        """Whether the user keeps enough of the population's nDCG@10."""
        return self.kept.value >= KEPT

    @property
    def moves(self) -> bool:
        """Whether the top three move far enough."""
        return self.shift.value >= MOVED


@dataclass(frozen=True)
class CurvePoint:
    """All planted users of a set who judged with prompts, at one value of `personalization`.

    Attributes:
        questions: Name of the set.
        personalization: Share of the user's departure from the population.
        ndcg: nDCG@10, mean over users.
        kept: That nDCG@10 as a share of the population's.
        shift: Shift of the top three, mean over users.
    """

    questions: str
    personalization: float
    ndcg: Figure
    kept: Figure
    shift: Figure


def measure_users(study: Study) -> list[UserRow]:
    """Return a row for each set, variant and style."""
    rows = []
    for questions in study.plan.sets:
        population = study.population(questions)
        reference = ndcgs(questions, population)
        for variant in study.plan.variants(questions):
            for style in study.plan.styles[questions.name]:
                orders = study.personal(questions, style, variant)
                found = ndcgs(questions, orders)
                rows.append(
                    UserRow(
                        questions.name,
                        variant,
                        style.name,
                        metrics.mean(found),
                        metrics.ratio(found, reference),
                        metrics.mean(shifts(questions, style, orders, population)),
                    )
                )
    return rows


def measure_curve(study: Study) -> list[CurvePoint] | None:
    """Return a point for each set and value of `personalization`. None if the ranker does not have that field."""
    if not study.ranker.has_personalization:
        return None
    return [_point(study, questions, share) for questions in study.plan.sets for share in SHARES]


def _point(study: Study, questions: QuestionSet, share: float) -> CurvePoint:
    population = study.population(questions)
    found, moved = [], []
    for style in study.plan.styles[questions.name]:
        orders = study.personal(questions, style, "prompts", share)
        found.append(ndcgs(questions, orders))
        moved.append(shifts(questions, style, orders, population))
    ndcg = np.mean(found, axis=0)
    return CurvePoint(
        questions.name,
        share,
        metrics.mean(ndcg),
        metrics.ratio(ndcg, ndcgs(questions, population)),
        metrics.mean(np.nanmean(moved, axis=0)),
    )
