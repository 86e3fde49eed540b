"""The OpenAPI document. FastAPI cannot see the bodies, which the routes read themselves, so they are added here.

`penchant openapi` prints the document; docs/openapi.json is its output.
"""

from collections.abc import Iterator, Mapping, Set
from typing import Annotated, Any, Final, Literal, Union

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import models_json_schema

from penchant.service.access.keyring import Scope
from penchant.service.api.answers.base import Problem
from penchant.service.api.routing import LeanRoute
from penchant.service.errors import PROBLEM_JSON, STATUS, Code
from penchant.service.feedback.schemas import EVENT_MODELS, FeedbackBatch
from penchant.service.settings import Settings
from penchant.service.validation import MAX_USER_CHARS, USER_SCHEMA


def _describe_header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


_TOO_MANY: Final = 429
_LIMITS: Final = ("maximum", "maxItems", "maxLength")
_RETRY_STATUSES: Final = (409, _TOO_MANY, 503, 504)
_REF: Final = "#/components/schemas/{model}"
_EVENTS: Final[tuple[type[BaseModel], ...]] = tuple(EVENT_MODELS.values())
FEEDBACK_BODY: Final[tuple[type[BaseModel], ...]] = (FeedbackBatch, *_EVENTS)
_USER_PARAMETER: Final = {
    "name": "user",
    "in": "path",
    "required": True,
    "description": "user id, percent-encoded",
    "schema": {**USER_SCHEMA},
}
_HEX: Final = "[0-9A-Fa-f]"
_BYTE: Final = f"%[89ABab]{_HEX}"  # a later byte of a character
_CHARACTERS: Final = (  # those of UTF-8 except control characters, by their first byte
    "[!-$&-~]",
    f"%([2-6]{_HEX}|7[0-9A-Ea-e])",
    f"%[Cc]2%[ABab]{_HEX}",
    f"%([Cc][3-9A-Fa-f]|[Dd]{_HEX}){_BYTE}",
    f"%[Ee]0%[ABab]{_HEX}{_BYTE}",
    f"%[Ee][1-9A-CEFa-cef]{_BYTE}{_BYTE}",
    f"%[Ee][Dd]%[89]{_HEX}{_BYTE}",
    f"%[Ff]0%[9ABab]{_HEX}{_BYTE}{_BYTE}",
    f"%[Ff][1-3]{_BYTE}{_BYTE}{_BYTE}",
    f"%[Ff]4%8{_HEX}{_BYTE}{_BYTE}",
)
_ENCODED_USER: Final = {
    "title": "EncodedUserId",
    "description": "A user id as percent-encoded UTF-8: 1 to 128 characters, none of them a control character. "
    "An empty one names nobody.",
    "type": "string",
    "pattern": f"^({'|'.join(_CHARACTERS)}){{0,{MAX_USER_CHARS}}}$",
}
_CONNECTION_CODES: Final = frozenset(
    {Code.MALFORMED_REQUEST, Code.REQUEST_TIMEOUT, Code.HEADERS_TOO_LARGE, Code.TOO_MANY_CONNECTIONS}
)
_COMMON_CODES: Final = _CONNECTION_CODES | {Code.INTERNAL, Code.NOT_READY, Code.DEADLINE_EXCEEDED}
_KEY_CODES: Final = frozenset(
    {Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.RATE_LIMITED, Code.STORAGE_UNAVAILABLE}
)
_BODY_CODES: Final = frozenset(
    {
        Code.INVALID_JSON,
        Code.INVALID_ENCODING,
        Code.BODY_TOO_LARGE,
        Code.UNSUPPORTED_MEDIA_TYPE,
        Code.VALIDATION_FAILED,
    }
)
_RANKING_CODES: Final = frozenset(
    {Code.USER_CONFLICT, Code.MODEL_NOT_FOUND, Code.OVERLOADED, Code.QUOTA_EXCEEDED}
)
_FEEDBACK_CODES: Final = frozenset(
    {
        Code.USER_CONFLICT,
        Code.RANK_NOT_FOUND,
        Code.EVENT_NOT_FOUND,
        Code.IDEMPOTENCY_IN_FLIGHT,
        Code.IDEMPOTENCY_KEY_REUSED,
        Code.EVENT_ID_CONFLICT,
        Code.OVERLOADED,
        Code.QUOTA_EXCEEDED,
    }
)
_USER_CODES: Final = frozenset({Code.INVALID_ENCODING, Code.VALIDATION_FAILED})

RouteKind = Literal["ranking", "feedback", "user", "page", "forget", "export", "merge", "models", "health"]

_CODES: Final[Mapping[RouteKind, frozenset[Code]]] = {
    "ranking": _COMMON_CODES | _BODY_CODES | _RANKING_CODES | _KEY_CODES,
    "feedback": _COMMON_CODES | _BODY_CODES | _FEEDBACK_CODES | _KEY_CODES,
    "user": _COMMON_CODES | _USER_CODES | _KEY_CODES | {Code.USER_NOT_FOUND},
    "page": _COMMON_CODES | _USER_CODES | _KEY_CODES | {Code.USER_NOT_FOUND},
    "forget": _COMMON_CODES | _USER_CODES | _KEY_CODES,
    "export": _COMMON_CODES | _USER_CODES | _KEY_CODES | {Code.USER_NOT_FOUND, Code.OVERLOADED},
    "merge": _COMMON_CODES | _USER_CODES | _KEY_CODES | _BODY_CODES | {Code.USER_NOT_FOUND},
    "models": _COMMON_CODES | _KEY_CODES,
    "health": _COMMON_CODES,
}
_SCOPE_FIELD: Final = "x-required-scope"
_LIMIT_HEADERS: Final = {
    "RateLimit-Policy": _describe_header(
        "limits of the tenant and of the key, where there are some: `q` in `w` seconds"
    ),
    "RateLimit": _describe_header("of each limit: `r` are left, and more in `t` seconds"),
}
_RETRY_HEADERS: Final = {"Retry-After": _describe_header("seconds to wait")}
_COMMON_HEADERS: Final = {"X-Request-Id": _describe_header("names the request in logs")}
_TIMING_HEADERS: Final = _COMMON_HEADERS | {
    "Server-Timing": _describe_header("milliseconds in `queue`, `encode`, `posterior` and `rank`")
}


def describe_route(
    kind: RouteKind,
    answer: object,
    body: type[BaseModel] | tuple[type[BaseModel], ...] | None = None,
) -> dict[str, Any]:
    """Return the arguments that document a route.

    Args:
        kind: Kind of route, which determines its parameters and its errors.
        answer: Model of the answer, or two models. None if the answer is empty.
        body: Model of the request's body, or several models of which one must fit.
    """
    extra: dict[str, Any] = {"parameters": list(_list_parameters(kind))}
    bodies = body if isinstance(body, tuple) else () if body is None else (body,)
    if bodies:
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference_models(bodies)}},
        }
    statuses = sorted({STATUS[code][0] for code in _CODES[kind]})
    responses: dict[int | str, dict[str, Any]] = {
        status: _describe_problem(status, _CODES[kind]) for status in statuses
    }
    if answer is None:
        responses[204] = {"description": "Done", "headers": _COMMON_HEADERS | _LIMIT_HEADERS}
    else:
        headers = _TIMING_HEADERS if kind in ("ranking", "feedback") else _COMMON_HEADERS
        headers = headers | (_LIMIT_HEADERS if Code.RATE_LIMITED in _CODES[kind] else {})
        if isinstance(answer, tuple):
            answer = answer[0] | answer[1]
            headers = headers | {
                "X-Rank-Id": _describe_header("`id` of the ranking, where the answer is a bare array")
            }
        responses[200] = {"model": answer, "description": "Success", "headers": headers}
    return {"responses": responses, "openapi_extra": extra, "body_models": bodies}


def build_document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document of an application, with the limits that its settings have."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        openapi_version="3.1.0",
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    routes = [route for route in app.routes if isinstance(route, LeanRoute) and route.include_in_schema]
    models: list[type[BaseModel]] = [Problem, *(model for route in routes for model in route.body_models)]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    schemas.update(definitions["$defs"])
    any_event: Any = Annotated[Union[_EVENTS], Field(discriminator="type")]  # noqa: UP007  (a tuple of classes)
    event = TypeAdapter(any_event).json_schema(ref_template=_REF)
    event.pop("$defs")
    schemas["Event"] = event
    schemas["EncodedUserId"] = _ENCODED_USER
    schemas["FeedbackBatch"]["properties"]["events"]["items"] = {"$ref": _REF.format(model="Event")}
    schemas["Problem"]["properties"]["code"]["enum"] = [str(code) for code in STATUS]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document["security"] = [{"bearer": []}, {"key": []}, {}]
    for route in routes:
        for method in route.methods or ():
            _add_security(document["paths"][route.path_format][method.lower()], route.required_scope)
    for path in sorted(route.path_format for route in routes if route.per_user):
        document["paths"][f"/users/{{user}}{path}"] = _copy_for_user(document["paths"][path])
    filled: dict[str, Any] = _fill_in_limits(document, settings)
    return filled


def serialize_document(document: Mapping[str, Any]) -> bytes:
    """Return the document in the form of docs/openapi.json."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _fill_in_limits(node: Any, settings: Settings) -> Any:  # noqa: ANN401 - a part of the document
    """Return a copy in which each limit that is the name of a setting is the setting's value."""
    if isinstance(node, list):
        return [_fill_in_limits(inner, settings) for inner in node]
    if not isinstance(node, dict):
        return node
    return {
        key: getattr(settings, inner)
        if key in _LIMITS and isinstance(inner, str)
        else _fill_in_limits(inner, settings)
        for key, inner in node.items()
    }


def _add_security(operation: dict[str, Any], scope: Scope | None) -> None:
    """Add the scope that an operation requires."""
    if scope is None:
        operation["security"] = []
    else:
        operation[_SCOPE_FIELD] = str(scope)


def _copy_for_user(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ranking path as it is served under `/users/{user}`."""
    post = dict(item["post"])
    post["operationId"] = f"{post['operationId']}_for_user"
    post["parameters"] = [_USER_PARAMETER, *post.get("parameters", [])]
    return {"post": post}


def _list_parameters(kind: RouteKind) -> Iterator[dict[str, Any]]:
    if kind in ("user", "page", "forget", "export", "merge"):
        yield _USER_PARAMETER
    if kind in ("ranking", "feedback"):
        yield _describe_parameter(
            "X-User-Id",
            "header",
            "user id, percent-encoded: one of the ways to name the user",
            {"$ref": _REF.format(model="EncodedUserId")},
        )
    if kind == "feedback":
        text = "a repeated request with this key gets the first one's answer, for 24 h"
        yield _describe_parameter(
            "Idempotency-Key", "header", text, {"type": "string", "minLength": 1, "maxLength": 255}
        )
    if kind == "page":
        yield _describe_parameter(
            "cursor",
            "query",
            "`next_cursor` of the page before",
            {"type": "string", "pattern": "^[0-9]*$"},
        )
        yield _describe_parameter(
            "limit",
            "query",
            "events in a page",
            {"type": "integer", "minimum": 1, "maximum": "max_page_items"},
        )


def _describe_parameter(name: str, place: str, text: str, schema: Mapping[str, object]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "description": text, "schema": {**schema}}


def _reference_models(models: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _describe_problem(status: int, possible: Set[Code]) -> dict[str, Any]:
    codes = ", ".join(f"`{code}`" for code in STATUS if code in possible and STATUS[code][0] == status)
    schema = {"$ref": _REF.format(model="Problem")}
    headers = (
        _COMMON_HEADERS
        | (_RETRY_HEADERS if status in _RETRY_STATUSES else {})
        | (_LIMIT_HEADERS if status == _TOO_MANY else {})
    )
    return {"description": codes, "content": {PROBLEM_JSON: {"schema": schema}}, "headers": headers}
