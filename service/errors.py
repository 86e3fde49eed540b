"""Every way in which a request can fail, and the one table from code to HTTP status.

ApiError                     any answer that is not a success; carries its `Code`
├── InvalidRequestError        a field is wrong; names it by JSON pointer
└── OverloadedError               come back in `retry_after` seconds
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.responses import Response

PROBLEM_JSON: Final = "application/problem+json"


class Code(StrEnum):
    """The closed list of error codes."""

    INVALID_JSON = "invalid_json"
    INVALID_ENCODING = "invalid_encoding"
    USER_CONFLICT = "user_conflict"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    USER_NOT_FOUND = "user_not_found"
    RANK_NOT_FOUND = "rank_not_found"
    EVENT_NOT_FOUND = "event_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    IDEMPOTENCY_IN_FLIGHT = "idempotency_in_flight"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    VALIDATION_FAILED = "validation_failed"
    EVENT_ID_CONFLICT = "event_id_conflict"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    INTERNAL = "internal_error"
    NOT_READY = "not_ready"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"


STATUS: Final[Mapping[Code, tuple[int, str]]] = {
    Code.INVALID_JSON: (400, "The body is not valid JSON"),
    Code.INVALID_ENCODING: (400, "The request is not valid UTF-8"),
    Code.USER_CONFLICT: (400, "The request names two different users"),
    Code.UNAUTHENTICATED: (401, "A valid API key is needed"),
    Code.FORBIDDEN: (403, "The key may not do this"),
    Code.NOT_FOUND: (404, "There is nothing at this address"),
    Code.MODEL_NOT_FOUND: (404, "There is no such model"),
    Code.USER_NOT_FOUND: (404, "There is no such user"),
    Code.RANK_NOT_FOUND: (404, "There is no such ranking"),
    Code.EVENT_NOT_FOUND: (404, "There is no such event"),
    Code.METHOD_NOT_ALLOWED: (405, "This address does not know this method"),
    Code.REQUEST_TIMEOUT: (408, "The body did not arrive in time"),
    Code.IDEMPOTENCY_IN_FLIGHT: (409, "A request with this idempotency key is in progress"),
    Code.BODY_TOO_LARGE: (413, "The body is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be JSON"),
    Code.VALIDATION_FAILED: (422, "The request is not valid"),
    Code.EVENT_ID_CONFLICT: (422, "The event id was used for another event"),
    Code.IDEMPOTENCY_KEY_REUSED: (422, "The idempotency key was used for another request"),
    Code.OVERLOADED: (429, "The server has more to do than it can take"),
    Code.RATE_LIMITED: (429, "Too many requests in a minute"),
    Code.QUOTA_EXCEEDED: (429, "The quota is used up"),
    Code.INTERNAL: (500, "The server failed"),
    Code.NOT_READY: (503, "The server is not ready"),
    Code.STORAGE_UNAVAILABLE: (503, "The server cannot store data now"),
    Code.DEADLINE_EXCEEDED: (504, "The server did not answer in time"),
}

INTERNAL_DETAIL: Final = (
    "The server failed to answer this request; its log holds the reason under the request id."
)


class ApiError(Exception):
    """A request that gets a problem document for an answer.

    Args:
        code: What went wrong; gives status and title.
        detail: One sentence for the caller. Never the text of an exception.
        errors: `{pointer, detail}` of each field that is to blame.
        headers: Headers of the answer.
        extra: Extension members of the problem document.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = [dict(error) for error in errors]
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    @property
    def status(self) -> int:
        """HTTP status of the code."""
        return STATUS[self.code][0]


class InvalidRequestError(ApiError):
    """Fields that are wrong: `(pointer, detail)` each."""

    def __init__(self, *faults: tuple[str, str], code: Code = Code.VALIDATION_FAILED) -> None:
        pointer, first = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        detail = f"{pointer}: {first}{more}" if pointer else f"{first}{more}"
        super().__init__(code, detail, errors=[{"pointer": p, "detail": d} for p, d in faults])


class OverloadedError(ApiError):
    """A bounded queue is full; `retry_after` seconds from now it should have room."""

    def __init__(self, queue: str, limit: int, retry_after: float) -> None:
        seconds = max(1, math.ceil(retry_after))
        headers = {
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"{queue}";q={limit}',
            "RateLimit": f'"{queue}";r=0;t={seconds}',
        }
        super().__init__(
            Code.OVERLOADED, f"The {queue} queue is full; try again in {seconds} s.", headers=headers
        )


def problem(error: ApiError) -> dict[str, Any]:
    """The problem document (RFC 9457) of an error, without the members that belong to one request."""
    status, title = STATUS[error.code]
    return {
        "type": f"urn:penchant:problem:{error.code}",
        "title": title,
        "status": status,
        "detail": error.detail,
        "code": str(error.code),
        "errors": error.errors,
        "message": error.detail,
        **error.extra,
    }


def problem_response(error: ApiError, *, instance: str, request_id: str) -> Response:
    """The HTTP answer to a failed request."""
    body = problem(error) | {"instance": instance, "request_id": request_id}
    headers = dict(error.headers)
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), error.status, headers, PROBLEM_JSON)


def from_http_status(status: int, headers: Mapping[str, str] | None = None) -> ApiError:
    """The error that stands for a status raised by the web framework."""
    if status == HTTPStatus.NOT_FOUND:
        return ApiError(Code.NOT_FOUND, "No resource has this path.")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allow = (headers or {}).get("Allow", "")
        return ApiError(Code.METHOD_NOT_ALLOWED, f"Allowed here: {allow or 'nothing'}.", headers=headers)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return ApiError(Code.BODY_TOO_LARGE, "The body is larger than this server accepts.")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return ApiError(Code.INVALID_JSON, "The request cannot be read.")
    return ApiError(Code.INTERNAL, INTERNAL_DETAIL)


def internal_error() -> ApiError:
    """The answer to a failure whose reason stays in the log."""
    return ApiError(Code.INTERNAL, INTERNAL_DETAIL)


def deadline_error(seconds: float) -> ApiError:
    """The answer to a request that took too long; what it asked for may still happen."""
    detail = f"No answer within {seconds:g} s. Send it again, with the same event ids or `Idempotency-Key`."
    return ApiError(Code.DEADLINE_EXCEEDED, detail, headers={"Retry-After": "1"})


def storage_unavailable(detail: str = "The store cannot be reached; try again.") -> ApiError:
    """The answer where the store failed."""
    return ApiError(Code.STORAGE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
