"""Rankings of a plan that several parts share, and what they are worth."""

from collections.abc import Sequence

import numpy as np

from benchmarks.relevance import metrics
from benchmarks.relevance.baselines import Order
from benchmarks.relevance.metrics import Vector
from benchmarks.relevance.plan import Plan
from benchmarks.relevance.questions import QuestionSet
from benchmarks.relevance.rankers import Ranker
from benchmarks.relevance.styles import Style, Variant, halves, shift


class Study:
    """A plan and a ranker. The population ranks each question once, and each planted user judges once.

    Args:
        plan: What is ranked.
        ranker: Source of rankings.

    Attributes:
        plan: What is ranked.
        ranker: Source of rankings.
    """

    def __init__(self, plan: Plan, ranker: Ranker) -> None:
        self.plan = plan
        self.ranker = ranker
        self._population: dict[str, list[Order]] = {}
        self._users: set[str] = set()

    def population(self, questions: QuestionSet) -> list[Order]:
        """Return the population's order for each question."""
        if questions.name not in self._population:
            self._population[questions.name] = self.rank(questions, [q.text for q in questions.questions])
        return self._population[questions.name]

    def rank(self, questions: QuestionSet, queries: Sequence[str]) -> list[Order]:
        """Return the population's order of each question's candidates for a query."""
        return [
            self.ranker.rank(query, q.candidates)
            for q, query in zip(questions.questions, queries, strict=True)
        ]

    def personal(
        self, questions: QuestionSet, style: Style, variant: Variant, personalization: float | None = None
    ) -> list[Order]:
        """Return the order for each question of the planted user who is measured on it."""
        users = [self._user(questions, style, variant, half) for half in (0, 1)]
        return [
            self.ranker.rank(q.text, q.candidates, users[half], personalization)
            for q, half in zip(questions.questions, halves(questions).tolist(), strict=True)
        ]

    def _user(self, questions: QuestionSet, style: Style, variant: Variant, half: int) -> str:
        """Return the id of a planted user, who has judged."""
        user = f"{questions.name}-{variant}-{style.name.replace(' ', '-')}-{half}"
        if user not in self._users:
            self.ranker.learn(user, self.plan.judgements(questions, style, variant, half))
            self._users.add(user)
        return user


def ndcgs(questions: QuestionSet, orders: Sequence[Order]) -> Vector:
    """Return the nDCG of each question's order, `[n_questions]`."""
    return np.array(
        [metrics.ndcg(q.relevance, order) for q, order in zip(questions.questions, orders, strict=True)]
    )


def shifts(
    questions: QuestionSet, style: Style, orders: Sequence[Order], reference: Sequence[Order]
) -> Vector:
    """Return the shift of each question's top three, `[n_questions]`."""
    return np.array(
        [
            shift(q, style, order.tolist(), other.tolist())
            for q, order, other in zip(questions.questions, orders, reference, strict=True)
        ]
    )
