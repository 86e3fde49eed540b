"""`/v1/score` and `/score`, in the dialect of vLLM."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, WithJsonSchema

from penchant.service.api.answers.base import Answer
from penchant.service.api.answers.ranking import EXPLANATION, Explanation, Usage
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.ranking.results import ScoreResult as Scored
from penchant.service.ranking.results import Task, add_explanation, format_usage
from penchant.service.settings import Settings
from penchant.service.validation import LenientModel, PersonalizationStrength, UserId

TextOrTexts = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
]


class ScoreRequest(LenientModel):
    """Pairs to score (vLLM): one prompt for all texts, or one prompt for each, for one user or several."""

    model: str | None = None
    text_1: TextOrTexts = None
    text_2: TextOrTexts = None
    queries: TextOrTexts = None
    documents: TextOrTexts = None
    explain: bool | None = Field(default=None, description="an `explanation` in each result")
    personalization: PersonalizationStrength = None
    user: UserId | None = None
    users: list[UserId] | None = Field(
        default=None,
        min_length=1,
        fail_fast=True,
        description="score the same texts for each of these users; no other field may name a user",
    )


def build_score_task(request: ScoreRequest, settings: Settings) -> Task:
    """Return the task of a request, with one prompt for all texts or one for each."""
    if request.text_1 is not None or request.text_2 is not None:
        names, prompts, texts = ("text_1", "text_2"), request.text_1, request.text_2
    else:
        names, prompts, texts = ("queries", "documents"), request.queries, request.documents
    prompt_list, text_list = _strings(prompts, names[0]), _strings(texts, names[1])
    if len(prompt_list) not in (1, len(text_list)):
        fault = f"{len(prompt_list)} prompts do not fit {len(text_list)} texts: send one, or one a text."
        raise InvalidRequestError((f"/{names[0]}", fault))
    return Task.within_limits(tuple(prompt_list), names[0], text_list, names[1], settings)


def select_users(
    request: ScoreRequest, user: str | None, texts: int, settings: Settings
) -> tuple[str | None, ...]:
    """Return the users of a request. `user` is the one named outside `users`, if any.

    Raises:
        ApiError: `user_conflict`, or `validation_failed` if the request asks for too many scores.
    """
    if request.users is None:
        return (user,)
    if user is not None:
        raise ApiError(Code.USER_CONFLICT, "Name one user, or several in `users`.")
    if len(request.users) * texts > settings.max_scores:
        fault = (
            f"{len(request.users)} users × {texts} texts; a request may have {settings.max_scores} scores."
        )
        raise InvalidRequestError(("/users", fault))
    if request.explain and len(request.users) > 1:
        raise InvalidRequestError(("/explain", "Explanations are for one user."))
    return tuple(request.users)


def _strings(value: object, name: str) -> list[str]:
    if value is None:
        raise InvalidRequestError((f"/{name}", "Field required"))
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InvalidRequestError((f"/{name}", "Send a string or a list of strings."))
    if not value:
        raise InvalidRequestError((f"/{name}", "The list is empty."))
    for i, item in enumerate(value):
        if not isinstance(item, str):
            raise InvalidRequestError((f"/{name}/{i}", "Input should be a valid string"))
    return value


class ScoreResult(Answer):
    """One text. `score` is its utility, which is unbounded."""

    index: int
    object: Literal["score"]
    score: float
    std: float
    probability: float = Field(ge=0, le=1)
    user: str | None = Field(default=None, description="user of the score; absent unless `users` was sent")
    explanation: Explanation | None = EXPLANATION


class ScoreResponse(Answer):
    """Scores in the order of the request: all texts for the first user, then all texts for the next."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreResult]
    usage: Usage


def build_score_answer(scored: Scored, created: int, *, named: bool = False) -> bytes:
    """Return vLLM's list as JSON, in the order of the request. If `named`, each entry names its user.

    Many scores take a while. They are written user by user, so that other threads can run in between.
    """
    answer = {
        "id": scored.rank_id,
        "object": "list",
        "created": created,
        "model": scored.model,
        "data": orjson.Fragment(b"[%b]" % b",".join(_write_entries(scored, named))),
        "usage": format_usage(scored.tokens),
    }
    return orjson.dumps(answer)


def _write_entries(scored: Scored, named: bool) -> Iterator[bytes]:
    """Yield the entries of each user, separated by commas."""
    for user, *rows in zip(scored.users, scored.mean, scored.std, scored.probability, strict=True):
        whose = {"user": user} if named else {}
        moments = zip(*(row.tolist() for row in rows), strict=True)
        entries = [
            add_explanation(
                {
                    "index": i,
                    "object": "score",
                    "score": mean,
                    "std": std,
                    "probability": probability,
                    **whose,
                },
                scored.explanations,
            )
            for i, (mean, std, probability) in enumerate(moments)
        ]
        yield orjson.dumps(entries)[1:-1]
