"""`Judgement`: what one user stated about texts."""

import itertools
from dataclasses import dataclass

from penchant.models.judgements import kinds
from penchant.models.judgements.base import FULL_SCALE, Form, normalise

DEFAULT_SOURCE = "default"
"""Source of judgements that name none. Its noise and rating scale also serve sources that a fit did not see."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judgement of one user. It takes about 300 bytes beside its texts, which judgements share.

    Attributes:
        user: The user who judged.
        context: The prompt, question or page that the texts answer.
        kind: Name of the kind of judgement, one of `kinds.BY_NAME`.
        texts: Judged texts, winner first: (chosen, rejected), (after, before), (picked, the others shown …),
            (best, …, worst), or the one text that was voted on or rated.
        value: The rating or vote (1 or -1). 0 for comparisons.
        scale: Lowest and highest possible rating.
        source: Data set or channel of the judgement. Ratings of one source share offset, slope and noise.
        own: Whether the user wrote the text. Evaluations leave such judgements out.
        weight: Power of the likelihood, in [0, 1]. For an edit, how much it changed.
        groups: Sizes of the groups of tied texts, best first: (1, n − 1) for a choice. Empty if there are no ties.
    """

    user: str
    context: str
    kind: str
    texts: tuple[str, ...]
    value: float = 0.0
    scale: tuple[float, float] = FULL_SCALE
    source: str = DEFAULT_SOURCE
    own: bool = False
    weight: float = 1.0
    groups: tuple[int, ...] = ()

    @property
    def form(self) -> Form:
        """The likelihood of this kind of judgement."""
        return kinds.BY_NAME[self.kind].form

    @property
    def normalised(self) -> float:
        """The vote, or the rating moved to [-1, 1] by its scale."""
        return normalise(self.value, self.scale)

    def pairs(self) -> list[tuple[str, str]]:
        """Return the comparisons (better, worse) of neighbouring groups. Empty for a rating or vote."""
        if not self.groups:
            return [pair for pair in itertools.pairwise(self.texts) if pair[0] != pair[1]]
        texts = iter(self.texts)
        groups = [tuple(itertools.islice(texts, size)) for size in self.groups]
        pairs = [
            pair for better, worse in itertools.pairwise(groups) for pair in itertools.product(better, worse)
        ]
        return [pair for pair in pairs if pair[0] != pair[1]]
