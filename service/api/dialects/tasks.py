"""Requests of Cohere, Jina, vLLM and TEI → one ranking task. Pure functions: no clock, no state."""

from collections.abc import Sequence
from dataclasses import dataclass

from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.feedback.schemas import BestOfNRequest, RerankRequest, ScoreRequest, TeiRequest
from penchant.service.settings import Settings


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


def rerank_task(request: RerankRequest, settings: Settings) -> Task:
    """The task of a Cohere, Jina or vLLM request."""
    texts = [_document_text(document, i, request.rank_fields) for i, document in enumerate(request.documents)]
    return _task((request.query,), "query", texts, "documents", settings)


def tei_task(request: TeiRequest, settings: Settings) -> Task:
    """The task of a TEI request."""
    return _task((request.query,), "query", request.texts, "texts", settings)


def score_task(request: ScoreRequest, settings: Settings) -> Task:
    """The task of a vLLM score request, 1-to-N or N-to-N."""
    if request.text_1 is not None or request.text_2 is not None:
        names, prompts, texts = ("text_1", "text_2"), request.text_1, request.text_2
    else:
        names, prompts, texts = ("queries", "documents"), request.queries, request.documents
    prompt_list, text_list = _strings(prompts, names[0]), _strings(texts, names[1])
    if len(prompt_list) not in (1, len(text_list)):
        fault = f"{len(prompt_list)} prompts do not fit {len(text_list)} texts: send one, or one a text."
        raise InvalidRequestError((f"/{names[0]}", fault))
    return _task(tuple(prompt_list), names[0], text_list, names[1], settings)


def score_users(
    request: ScoreRequest, user: str | None, texts: int, settings: Settings
) -> tuple[str | None, ...]:
    """For whom a score request is; `user` is whom another channel names.

    Raises:
        ApiError: `user_conflict`, or more scores than a request may have.
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


def best_of_n_task(request: BestOfNRequest, settings: Settings) -> Task:
    """The task of a best-of-n request."""
    return _task((request.prompt or "",), "prompt", request.candidates, "candidates", settings)


def _task(
    prompts: tuple[str, ...], prompt_field: str, texts: Sequence[str], field: str, settings: Settings
) -> Task:
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


def _document_text(document: object, index: int, rank_fields: Sequence[str] | None) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict):
        if rank_fields:
            parts = [document[name] for name in rank_fields if isinstance(document.get(name), str)]
            if parts:
                return "\n".join(parts)
            raise InvalidRequestError(
                (f"/documents/{index}", "None of `rank_fields` is a text in this document.")
            )
        text = document.get("text")
        if isinstance(text, str):
            return text
        raise InvalidRequestError((f"/documents/{index}/text", "A document needs a text under `text`."))
    raise InvalidRequestError((f"/documents/{index}", "A document is a string or an object with `text`."))


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
