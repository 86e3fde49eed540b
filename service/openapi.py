"""The OpenAPI document: what FastAPI cannot see, because bodies are read by hand, is added here.

`python -m penchant.service.openapi` prints the document; docs/openapi.json is its output.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from penchant.service.answers import Problem
from penchant.service.edge import RANKING_PATHS
from penchant.service.errors import PROBLEM_JSON, STATUS
from penchant.service.schemas import (
    AnyEvent,
    BestOfNRequest,
    FeedbackBatch,
    PreferenceEvent,
    RatingEvent,
    RerankRequest,
    ScoreRequest,
    TeiRequest,
    VoteEvent,
)

_REF: Final = "#/components/schemas/{model}"
_BODIES: Final = (
    RerankRequest,
    TeiRequest,
    ScoreRequest,
    BestOfNRequest,
    FeedbackBatch,
    PreferenceEvent,
    VoteEvent,
    RatingEvent,
)
_EVENTS: Final = (PreferenceEvent, VoteEvent, RatingEvent)
FEEDBACK_BODY: Final = (FeedbackBatch, *_EVENTS)
_USER: Final = {
    "name": "user",
    "in": "path",
    "required": True,
    "description": "user id, percent-encoded",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}
_COMMON: Final = (401, 500, 503)
_WRITE: Final = (400, 408, 413, 415, 422, 429)


def describe(
    body: type[BaseModel] | tuple[type[BaseModel], ...] | None,
    answer: object,
    *,
    ranking: bool = False,
    idempotent: bool = False,
    user: bool = False,
    paged: bool = False,
    open_to_all: bool = False,
) -> dict[str, Any]:
    """Arguments of a route that document it.

    Args:
        body: Model of the request's body, or several of which one fits.
        answer: Model of the answer, or several; None for an empty one.
        ranking: Whether the user can come by header, and a model can be unknown.
        idempotent: Whether `Idempotency-Key` is read.
        user: Whether the path names a user.
        paged: Whether it takes `cursor` and `limit`.
        open_to_all: Whether it needs no key.
    """
    statuses = {500, 503} if open_to_all else set(_COMMON)
    extra: dict[str, Any] = {"parameters": list(_parameters(ranking, idempotent, user, paged))}
    if body is not None:
        statuses |= set(_WRITE)
        bodies = body if isinstance(body, tuple) else (body,)
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _any_of(bodies)}},
        }
    if ranking or user:
        statuses |= {400, 404, 422}
    if idempotent:
        statuses |= {404, 409}
    if open_to_all:
        extra["security"] = []
    responses: dict[int | str, dict[str, Any]] = {status: _problem(status) for status in sorted(statuses)}
    if answer is not None:
        union = answer[0] | answer[1] if isinstance(answer, tuple) else answer
        responses[200] = {"model": union, "description": "Success", "headers": _HEADERS}
    else:
        responses[204] = {"description": "Done"}
    return {"responses": responses, "openapi_extra": extra}


_HEADERS: Final = {"X-Request-Id": {"description": "names the request in logs", "schema": {"type": "string"}}}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        openapi_version="3.1.0",
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    _, definitions = models_json_schema(
        [(model, "validation") for model in (*_BODIES, Problem)], ref_template=_REF
    )
    schemas.update(definitions["$defs"])
    event = TypeAdapter(AnyEvent).json_schema(ref_template=_REF)
    event.pop("$defs")
    schemas["Event"] = event
    schemas["FeedbackBatch"]["properties"]["events"]["items"] = {"$ref": _REF.format(model="Event")}
    schemas["Problem"]["properties"]["code"]["enum"] = [str(code) for code in STATUS]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["schemas"] = dict(sorted(schemas.items()))
    found["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    found["security"] = [{"bearer": []}, {"key": []}, {}]
    for path in sorted(RANKING_PATHS):
        found["paths"][f"/users/{{user}}{path}"] = _for_user(found["paths"][path])
    return found


def serialize(found: Mapping[str, Any]) -> bytes:
    """The document as it is committed."""
    return orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _for_user(item: Mapping[str, Any]) -> dict[str, Any]:
    """A ranking path behind `/users/{user}`."""
    post = dict(item["post"])
    post["operationId"] = f"{post['operationId']}_for_user"
    post["parameters"] = [_USER, *post.get("parameters", [])]
    return {"post": post}


def _parameters(ranking: bool, idempotent: bool, user: bool, paged: bool) -> Iterator[dict[str, Any]]:
    if user:
        yield _USER
    if ranking or idempotent:
        yield {
            "name": "X-User-Id",
            "in": "header",
            "required": False,
            "description": "user id, percent-encoded; one of the ways to name the user",
            "schema": {"type": "string"},
        }
    if idempotent:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "a repeated request with this key gets the first one's answer, for 24 h",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
    if paged:
        yield {
            "name": "cursor",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "pattern": "^[0-9]*$"},
        }
        yield {
            "name": "limit",
            "in": "query",
            "required": False,
            "schema": {"type": "integer", "minimum": 1, "maximum": 100},
        }


def _any_of(models: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _problem(status: int) -> dict[str, Any]:
    codes = ", ".join(f"`{code}`" for code, (its_status, _) in STATUS.items() if its_status == status)
    schema = {"$ref": _REF.format(model="Problem")}
    return {"description": f"One of {codes}", "content": {PROBLEM_JSON: {"schema": schema}}}


if __name__ == "__main__":
    from penchant.service.app import create_app
    from penchant.service.settings import Settings

    sys.stdout.buffer.write(serialize(document(create_app(Settings()))))
