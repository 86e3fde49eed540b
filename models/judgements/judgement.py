"""`Judgement`: what a user said about texts."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from penchant.models.errors import ModelError

Kind = Literal["pair", "choice", "ranking", "vote", "rating", "edit"]


class JudgementError(ModelError, ValueError):
    """A judgement file cannot be read.

    Attributes:
        path: The file.
        line: Line number from 1, or 0 for the file as a whole.
        problem: What is wrong.
    """

    def __init__(self, path: Path, line: int, problem: str) -> None:
        self.path, self.line, self.problem = path, line, problem
        super().__init__(f"{path}:{line}: {problem}" if line else f"{path}: {problem}")


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judgement of one user: about 300 bytes beside its texts, which judgements share.

    Attributes:
        user: Who judged.
        context: The prompt, question or page the texts answer.
        kind: What was said.
        texts: Winner first: (chosen, rejected), (after, before), (picked, the others shown …), (best, …, worst), or the
            one item rated.
        value: The rating or vote (+1, -1); 0.0 for comparisons.
        scale: Lowest and highest possible rating.
        source: Set or channel it came from; ratings of one source share offset, slope and noise.
        own: The judge wrote the text (left out of evaluations).
        weight: Power of the likelihood, in (0, 1]; of an edit what it changed, 0 where nothing.
        groups: Sizes of the groups of tied texts of a ranking, best first, of a choice (1, n − 1); () means no ties.
    """

    user: str
    context: str
    kind: Kind
    texts: tuple[str, ...]
    value: float = 0.0
    scale: tuple[float, float] = (-1.0, 1.0)
    source: str = "default"
    own: bool = False
    weight: float = 1.0
    groups: tuple[int, ...] = ()

    @property
    def normalised(self) -> float:
        """The rating moved to [-1, 1] by its scale."""
        low, high = self.scale
        return 2 * ((self.value - low) / (high - low)) - 1

    def pairs(self) -> list[tuple[str, str]]:
        """Comparisons (better, worse) that it states, of neighbouring groups; none for a rating or vote."""
        if not self.groups:
            return [p for p in itertools.pairwise(self.texts) if p[0] != p[1]]
        rest = iter(self.texts)
        tied = [tuple(itertools.islice(rest, size)) for size in self.groups]
        found = [p for better, worse in itertools.pairwise(tied) for p in itertools.product(better, worse)]
        return [p for p in found if p[0] != p[1]]
