"""The task of a ranking, and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Task:
    """n texts, each to be judged as an answer to its prompt.

    Attributes:
        prompts: n prompts.
        texts: n texts.
        field: Name of the request field that held the texts.
    """

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    field: str


Vector = NDArray[np.float64]
Explanations = Mapping[int, Mapping[str, Any]]
MAX_WARNED: Final = 20


class Personal(NamedTuple):
    """Whose taste was used, as told in answers."""

    user: str | None
    is_personal: bool = False
    feedback_events: int = 0
    posterior_version: int = 0

    @property
    def state(self) -> Literal["population", "personal"]:
        """`population` until something was learned of the user."""
        return "personal" if self.is_personal else "population"


class Ranked(NamedTuple):
    """A task's result, all arrays in the order of the request.

    Attributes:
        rank_id: Join key for feedback.
        model: Bundle that ranked.
        personal: Whose taste.
        mean: `[n]` utility.
        std: `[n]` its standard deviation.
        probability: `[n]` relevance: P(the user prefers the text to the reference answer).
        order: `[n]` indices, best first, by whatever the dialect sorts by.
        tokens: Tokens read.
        warnings: For the caller.
        explanations: By index of the text, of those that are to be explained.
    """

    rank_id: str
    model: str
    personal: Personal
    mean: Vector
    std: Vector
    probability: Vector
    order: NDArray[np.int64]
    tokens: int
    warnings: tuple[str, ...]
    explanations: Explanations


class Choice(NamedTuple):
    """Best-of-n: `[n]` in the order of the request."""

    rank_id: str
    mean: Vector
    best: Vector
    acceptable: Vector
    order: NDArray[np.int64]
    explanations: Explanations


def truncation_warnings(task: Task, truncated: Sequence[int], max_tokens: int) -> tuple[str, ...]:
    """What `meta.warnings` says of texts that the encoder saw in part."""
    if not truncated:
        return ()
    listed = ", ".join(map(str, truncated[:MAX_WARNED])) + (", …" if len(truncated) > MAX_WARNED else "")
    return (f"{len(truncated)} of {len(task.texts)} {task.field} truncated to {max_tokens} tokens: {listed}",)
