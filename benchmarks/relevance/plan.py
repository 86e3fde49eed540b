"""What a run ranks: question sets, their planted users, and wrong questions."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.relevance.questions import QuestionSet
from benchmarks.relevance.styles import VARIANTS, Preference, Style, Variant, choose_styles, judgements_of

SEED: Final = 11
NONE: Final = "none"
OWN: Final = "another question of the set"
FOREIGN: Final = "a question of another set"


class Plan:
    """Question sets and their planted users.

    Args:
        sets: The question sets.

    Attributes:
        sets: The question sets.
        styles: Styles that each set allows to measure, by name of the set.
        left_out: Why other styles were left out, by name of the set and of the style.
    """

    def __init__(self, sets: Sequence[QuestionSet]) -> None:
        self.sets = list(sets)
        self.styles: dict[str, list[Style]] = {}
        self.left_out: dict[str, dict[str, str]] = {}
        for questions in self.sets:
            self.styles[questions.name], self.left_out[questions.name] = choose_styles(questions)

    def elsewhere(self, questions: QuestionSet) -> QuestionSet | None:
        """Return another set. None if there is only one."""
        return next((other for other in self.sets if other.name != questions.name), None)

    def variants(self, questions: QuestionSet) -> tuple[Variant, ...]:
        """Return the variants of planted users. `elsewhere` needs a second set."""
        return VARIANTS if self.elsewhere(questions) else VARIANTS[:-1]

    def judgements(
        self, questions: QuestionSet, style: Style, variant: Variant, half: int
    ) -> list[Preference]:
        """Return the judgements of the planted user who is measured on a half of the questions."""
        judged = self.elsewhere(questions) if variant == "elsewhere" else None
        return judgements_of(style, half, questions, variant=variant, elsewhere=judged)

    def wrong_queries(self, questions: QuestionSet) -> dict[str, list[str]]:
        """Return a wrong query for each question, by kind."""
        queries = {NONE: [""] * len(questions.questions), OWN: swap(questions)}
        other = self.elsewhere(questions)
        if other is not None:
            picked = np.random.default_rng(SEED).integers(len(other.questions), size=len(questions.questions))
            queries[FOREIGN] = [other.questions[i].text for i in picked]
        return queries

    def items(self, parts: Sequence[str]) -> list[tuple[str, str]]:
        """Return every (prompt, text) that some parts rank or learn from."""
        items = [item for questions in self.sets for item in questions.items]
        for questions in self.sets:
            if "users" in parts:
                items += self._judged_items(questions)
            if "queries" in parts:
                for queries in self.wrong_queries(questions).values():
                    for question, query in zip(questions.questions, queries, strict=True):
                        items += [(query, text) for text in question.candidates]
        return list(dict.fromkeys(items))

    def _judged_items(self, questions: QuestionSet) -> list[tuple[str, str]]:
        return [
            (judged.prompt, text)
            for style in self.styles[questions.name]
            for variant in self.variants(questions)
            for half in (0, 1)
            for judged in self.judgements(questions, style, variant, half)
            for text in (judged.chosen, judged.rejected)
        ]


def swap(questions: QuestionSet) -> list[str]:
    """Return another question of the set for each question: one whose relevant texts are not relevant to this one.

    Raises:
        ValueError: If there is no such question.
    """
    rng = np.random.default_rng(SEED)
    relevant = [
        {text for text, value in zip(q.candidates, q.relevance, strict=True) if value > 0}
        for q in questions.questions
    ]
    found = []
    for number, own in enumerate(relevant):
        others = [i for i, texts in enumerate(relevant) if i != number and not own & texts]
        if not others:
            raise ValueError(
                f"every other question of {questions.name} shares an answer with question {number}"
            )
        found.append(questions.questions[others[rng.integers(len(others))]].text)
    return found
