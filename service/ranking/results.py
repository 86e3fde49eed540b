"""The task that a dialect gives to a ranking, and the result of the ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from penchant.service.errors import InvalidRequestError
from penchant.service.settings import Settings


@dataclass(frozen=True)
class Task:
    """n texts to be ranked as answers to their prompts.

    Attributes:
        prompts: n prompts.
        texts: n texts.
        field: Name of the request field that holds the texts.
    """

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    field: str

    @classmethod
    def within_limits(
        cls, prompts: tuple[str, ...], prompt_field: str, texts: Sequence[str], field: str, settings: Settings
    ) -> "Task":
        """Return a task after checking it against the limits.

        Args:
            prompts: One prompt for all texts, or one for each.
            prompt_field: Name of the request field that holds the prompts.
            texts: n texts.
            field: Name of the request field that holds the texts.
            settings: The limits.

        Raises:
            InvalidRequestError: If there are too many texts, or a prompt or text is too long.
        """
        check_number(len(texts), field, settings)
        for values, name, is_single in ((prompts, prompt_field, len(prompts) == 1), (texts, field, False)):
            for i, text in enumerate(values):
                if len(text) > settings.max_text_chars:
                    pointer = f"/{name}" if is_single else f"/{name}/{i}"
                    fault = f"The text has {len(text)} characters; the limit is {settings.max_text_chars}."
                    raise InvalidRequestError((pointer, fault))
        return cls(prompts if len(prompts) == len(texts) else prompts * len(texts), tuple(texts), field)


def check_number(texts: int, field: str, settings: Settings) -> None:
    """Check the number of texts of a request, before the texts themselves are read.

    Raises:
        InvalidRequestError: If there are too many.
    """
    if texts > settings.max_candidates:
        fault = f"The request has {texts} texts; the limit is {settings.max_candidates}."
        raise InvalidRequestError((f"/{field}", fault))


Vector = NDArray[np.float64]
Explanations = Mapping[int, orjson.Fragment]
"""Explanations as JSON, by index of the text. They are large, and JSON needs far less memory than objects."""
MAX_WARNED: Final = 20
"""Largest number of truncated or cut texts that a warning lists."""


class UserSummary(NamedTuple):
    """The user of a ranking, as responses report it. It does not depend on the strength of personalization.

    Attributes:
        user_id: User id. None for the population.
        is_personal: Whether anything was learned about the user.
        feedback_events: Events in the user's log.
        posterior_version: Version of the user's state.
    """

    user_id: str | None
    is_personal: bool = False
    feedback_events: int = 0
    posterior_version: int = 0

    @property
    def state(self) -> Literal["population", "personal"]:
        """`personal` if anything was learned about the user, otherwise `population`."""
        return "personal" if self.is_personal else "population"


class RankingResult(NamedTuple):
    """The result of a task. All arrays are in the order of the request.

    Attributes:
        rank_id: Id by which feedback refers to the ranking.
        model: Name of the bundle.
        user: User whose taste the ranking follows.
        mean: `[n]` posterior mean of each utility.
        std: `[n]` posterior standard deviation of each utility.
        probability: `[n]` relevance: P(the user prefers the text to the reference answer).
        order: `[n]` indices, best first, by relevance or by utility.
        tokens: Tokens in all texts.
        warnings: Warnings for the caller.
        explanations: Explanations by index of the text, if they were requested.
    """

    rank_id: str
    model: str
    user: UserSummary
    mean: Vector
    std: Vector
    probability: Vector
    order: NDArray[np.int64]
    tokens: int
    warnings: tuple[str, ...]
    explanations: Explanations


class ScoreResult(NamedTuple):
    """The scores of a task's n texts for u users. All arrays are in the order of the request.

    Attributes:
        rank_id: Id by which feedback refers to the ranking.
        model: Name of the bundle.
        users: u user ids. None for the population.
        mean: `[u, n]` posterior mean of each utility.
        std: `[u, n]` posterior standard deviation of each utility.
        probability: `[u, n]` relevance: P(the user prefers the text to the reference answer).
        tokens: Tokens in all texts.
        explanations: Explanations by index of the text, if they were requested for a single user.
    """

    rank_id: str
    model: str
    users: tuple[str | None, ...]
    mean: Vector
    std: Vector
    probability: Vector
    tokens: int
    explanations: Explanations


class ChoiceResult(NamedTuple):
    """The result of best-of-n. All arrays are in the order of the request.

    Attributes:
        rank_id: Id by which feedback refers to the choice.
        mean: `[n]` posterior mean of each utility.
        best: `[n]` P(the candidate has the highest utility).
        acceptable: `[n]` P(the candidate is good enough).
        order: `[n]` indices by mean utility, best first.
        explanations: Explanations by index of the candidate, if they were requested.
    """

    rank_id: str
    mean: Vector
    best: Vector
    acceptable: Vector
    order: NDArray[np.int64]
    explanations: Explanations


def warn_of_truncation(task: Task, truncated: Sequence[int], max_tokens: int) -> tuple[str, ...]:
    """Return a warning that names the texts that the encoder truncated, if there are any."""
    if not truncated:
        return ()
    listed = list_indices(truncated)
    return (f"{len(truncated)} of {len(task.texts)} {task.field} truncated to {max_tokens} tokens: {listed}",)


def list_indices(indices: Sequence[int]) -> str:
    """Return the first indices of texts, as warnings list them."""
    return ", ".join(map(str, indices[:MAX_WARNED])) + (", …" if len(indices) > MAX_WARNED else "")


def add_explanation(result: dict[str, Any], explanations: Explanations) -> dict[str, Any]:
    """Return a result of a response with the explanation of its text, if there is one."""
    explanation = explanations.get(result["index"])
    return result if explanation is None else {**result, "explanation": explanation}


def format_usage(tokens: int) -> dict[str, int]:
    """Return the `usage` of a response, in the form that OpenAI's clients read."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}
