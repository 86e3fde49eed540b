"""What the dialects share."""

from collections.abc import Sequence
from typing import Any

from penchant.service.errors import InvalidRequestError
from penchant.service.ranking.results import Explanations, Task
from penchant.service.settings import Settings


def bounded_task(
    prompts: tuple[str, ...], prompt_field: str, texts: Sequence[str], field: str, settings: Settings
) -> Task:
    """A task, once it is known to be within the limits.

    Args:
        prompts: One prompt for all texts, or one a text.
        prompt_field: Name of the request field that holds the prompts.
        texts: n texts.
        field: Name of the request field that holds the texts.
        settings: The limits.

    Raises:
        InvalidRequestError: There are too many texts, or one of them is too long.
    """
    if len(texts) > settings.max_candidates:
        fault = f"{len(texts)} texts; a request may have {settings.max_candidates}."
        raise InvalidRequestError((f"/{field}", fault))
    for values, name, alone in ((prompts, prompt_field, len(prompts) == 1), (texts, field, False)):
        for i, text in enumerate(values):
            if len(text) > settings.max_text_chars:
                at = f"/{name}" if alone else f"/{name}/{i}"
                raise InvalidRequestError(
                    (at, f"{len(text)} characters; a text may have {settings.max_text_chars}.")
                )
    return Task(prompts if len(prompts) == len(texts) else prompts * len(texts), tuple(texts), field)


def explained(result: dict[str, Any], explanations: Explanations) -> dict[str, Any]:
    """A result with the explanation of its text, where one was asked for."""
    explanation = explanations.get(result["index"])
    return result if explanation is None else {**result, "explanation": explanation}


def usage(tokens: int) -> dict[str, int]:
    """`usage` of an answer, as OpenAI's clients read it."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}
