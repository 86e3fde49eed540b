"""`/v1/score` and `/score`, in the dialect of vLLM."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from penchant.service.api.answers.base import Answer
from penchant.service.api.answers.ranking import EXPLANATION, Explanation, Usage
from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.ranking.results import ScoreResult as Scored
from penchant.service.ranking.results import Task, add_explanation, format_usage
from penchant.service.settings import Settings
from penchant.service.validation import LenientModel, PersonalizationStrength, UserId

_TEXT: Final[JsonDict] = {"type": "string", "maxLength": "max_text_chars"}
TextOrTexts = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": "max_candidates"},
                {"type": "null"},
            ]
        }
    ),
]
_NULL: Final[JsonDict] = {"type": "null"}
_FIRST_PAIR: Final = ("text_1", "text_2")
_SECOND_PAIR: Final = ("queries", "documents")


def _demand(names: Sequence[str]) -> JsonDict:
    return {"required": [*names], "properties": {name: {"not": _NULL} for name in names}}


_TEXT_PAIRS: Final[JsonDict] = {
    "if": {"properties": dict.fromkeys(_FIRST_PAIR, _NULL)},
    "then": _demand(_SECOND_PAIR),
    "else": _demand(_FIRST_PAIR),
}
_ONE_USER_OR_SEVERAL: Final[JsonDict] = {
    "dependentSchemas": {
        "users": {
            "if": {"properties": {"users": {"type": "array"}}},
            "then": {
                "properties": {"user": _NULL},
                "if": {"required": ["explain"], "properties": {"explain": {"const": True}}},
                "then": {"properties": {"users": {"maxItems": 1}}},
            },
        }
    }
}


class ScoreRequest(LenientModel):
    """Pairs to score (vLLM): one prompt for all texts, or one prompt for each, for one user or several."""

    model_config = ConfigDict(json_schema_extra=_TEXT_PAIRS | _ONE_USER_OR_SEVERAL)

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
    sent = {name: _read_texts(getattr(request, name), name) for name in (*_FIRST_PAIR, *_SECOND_PAIR)}
    names = _SECOND_PAIR if all(sent[name] is None for name in _FIRST_PAIR) else _FIRST_PAIR
    prompts, texts = (_require(sent[name], name) for name in names)
    if len(prompts) not in (1, len(texts)):
        fault = f"{len(prompts)} prompts do not fit {len(texts)} texts: send one, or one a text."
        raise InvalidRequestError((f"/{names[0]}", fault))
    return Task.within_limits(tuple(prompts), names[0], texts, names[1], settings)


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


def _require(texts: list[str] | None, name: str) -> list[str]:
    if texts is None:
        raise InvalidRequestError((f"/{name}", "Field required"))
    return texts


def _read_texts(value: object, name: str) -> list[str] | None:
    if value is None:
        return None
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
