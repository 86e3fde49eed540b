"""All errors that a request can be answered with, and the table from error code to HTTP status.

ApiError                    any answer that is not a success, with its `Code`
├── InvalidRequestError     some fields are invalid; each is named by a JSON pointer
└── OverloadedError         a queue is full; the client should retry later
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Self

import orjson
from starlette.responses import Response

PROBLEM_JSON: Final = "application/problem+json"
MAX_FAULTS: Final = 20
"""Faults of a request that an answer tells. No code may collect many more of them than it tells."""


class Code(StrEnum):
    """The closed list of error codes."""

    MALFORMED_REQUEST = "malformed_request"
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
    USER_BUSY = "user_busy"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    VALIDATION_FAILED = "validation_failed"
    EVENT_ID_CONFLICT = "event_id_conflict"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    HEADERS_TOO_LARGE = "headers_too_large"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    INTERNAL = "internal_error"
    NOT_READY = "not_ready"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"


STATUS: Final[Mapping[Code, tuple[int, str]]] = {
    Code.MALFORMED_REQUEST: (400, "The request is not valid HTTP"),
    Code.INVALID_JSON: (400, "The body is not valid JSON"),
    Code.INVALID_ENCODING: (400, "The request is not valid UTF-8"),
    Code.USER_CONFLICT: (400, "The request names two different users"),
    Code.UNAUTHENTICATED: (401, "A valid API key is required"),
    Code.FORBIDDEN: (403, "The API key does not allow this"),
    Code.NOT_FOUND: (404, "The path does not exist"),
    Code.MODEL_NOT_FOUND: (404, "The model does not exist"),
    Code.USER_NOT_FOUND: (404, "The user does not exist"),
    Code.RANK_NOT_FOUND: (404, "The ranking does not exist"),
    Code.EVENT_NOT_FOUND: (404, "The event does not exist"),
    Code.METHOD_NOT_ALLOWED: (405, "The path does not support this method"),
    Code.REQUEST_TIMEOUT: (408, "The request did not arrive in time"),
    Code.IDEMPOTENCY_IN_FLIGHT: (409, "A request with this idempotency key is in progress"),
    Code.USER_BUSY: (409, "The user is being merged or deleted"),
    Code.BODY_TOO_LARGE: (413, "The body is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be JSON"),
    Code.VALIDATION_FAILED: (422, "The request is not valid"),
    Code.EVENT_ID_CONFLICT: (422, "The event id was used for another event"),
    Code.IDEMPOTENCY_KEY_REUSED: (422, "The idempotency key was used for another request"),
    Code.OVERLOADED: (429, "The server is overloaded"),
    Code.RATE_LIMITED: (429, "Too many requests per minute"),
    Code.QUOTA_EXCEEDED: (429, "The quota is used up"),
    Code.HEADERS_TOO_LARGE: (431, "The headers are too large"),
    Code.INTERNAL: (500, "The server failed to answer"),
    Code.NOT_READY: (503, "The server is not ready"),
    Code.TOO_MANY_CONNECTIONS: (503, "Too many connections are open"),
    Code.STORAGE_UNAVAILABLE: (503, "The store is unavailable"),
    Code.DEADLINE_EXCEEDED: (504, "The server did not answer in time"),
}

INTERNAL_DETAIL: Final = (
    "The server failed to answer this request. Its log has the cause under the request id."
)


class ApiError(Exception):
    """An error that is answered with a problem document.

    Args:
        code: Error code, which determines the status and the title.
        detail: Explanation for the caller. Must not contain the text of an exception.
        errors: `{pointer, detail}` of each invalid field.
        headers: Further headers of the answer.
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
        """HTTP status of the error."""
        return STATUS[self.code][0]

    def detach(self) -> Self:
        """Return this error without its traceback, to be kept.

        The traceback refers to everything in the functions that the error has left, such as the parsed body. If one of
        them keeps the error, all of that stays in memory until Python looks for cycles.
        """
        self.__context__ = None
        return self.with_traceback(None)


class InvalidRequestError(ApiError):
    """One or more invalid fields. The error lists the first 20.

    Args:
        faults: `(pointer, detail)` of each field.
        code: Error code.
        number: Number of faults, if `faults` are only the first of them.
    """

    def __init__(
        self, *faults: tuple[str, str], code: Code = Code.VALIDATION_FAILED, number: int | None = None
    ) -> None:
        pointer, first = faults[0]
        others = (number or len(faults)) - 1
        more = f" (and {others} more)" if others else ""
        detail = f"{pointer}: {first}{more}" if pointer else f"{first}{more}"
        errors = [{"pointer": p, "detail": d} for p, d in faults[:MAX_FAULTS]]
        super().__init__(code, detail, errors=errors)


class OverloadedError(ApiError):
    """A bounded queue is full.

    Args:
        queue: Name of the queue.
        limit: Capacity of the queue.
        retry_after: Seconds until the queue is expected to have room. Rounded up, at least 1.
    """

    def __init__(self, queue: str, limit: int, retry_after: float) -> None:
        seconds = max(1, math.ceil(retry_after))
        headers = {
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"{queue}";q={limit}',
            "RateLimit": f'"{queue}";r=0;t={seconds}',
        }
        super().__init__(
            Code.OVERLOADED, f"The {queue} queue is full. Try again in {seconds} s.", headers=headers
        )


def build_problem(error: ApiError) -> dict[str, Any]:
    """Return the problem document (RFC 9457) of an error, without `instance` and `request_id`."""
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


def build_problem_response(error: ApiError, *, instance: str, request_id: str) -> Response:
    """Return the HTTP response to a failed request."""
    body = build_problem(error) | {"instance": instance, "request_id": request_id}
    headers = dict(error.headers)
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), error.status, headers, PROBLEM_JSON)


def http_status_error(status: int, headers: Mapping[str, str] | None = None) -> ApiError:
    """Return the error for a status that the web framework raised."""
    if status == HTTPStatus.NOT_FOUND:
        return ApiError(Code.NOT_FOUND, "This path does not exist.")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allow = (headers or {}).get("Allow", "")
        return ApiError(Code.METHOD_NOT_ALLOWED, f"Allowed methods: {allow or 'none'}.", headers=headers)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return ApiError(Code.BODY_TOO_LARGE, "The body is larger than the limit of this server.")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return ApiError(Code.INVALID_JSON, "The request cannot be parsed.")
    return ApiError(Code.INTERNAL, INTERNAL_DETAIL)


def internal_error() -> ApiError:
    """Return the error for a failure whose cause is only logged."""
    return ApiError(Code.INTERNAL, INTERNAL_DETAIL)


def user_busy_error(user: str) -> ApiError:
    """Return the error for a change of a user whose data is being merged or deleted."""
    detail = (
        f"The user {user!r} is being merged or deleted. Nothing of this request was stored. Try again in 1 s."
    )
    return ApiError(Code.USER_BUSY, detail, headers={"Retry-After": "1"})


def deadline_error(seconds: float) -> ApiError:
    """Return the error for a request that took longer than `seconds`. Its work may still complete."""
    detail = f"No answer within {seconds:g} s. Retry with the same event ids or the same `Idempotency-Key`."
    return ApiError(Code.DEADLINE_EXCEEDED, detail, headers={"Retry-After": "1"})


def storage_error(detail: str = "The store cannot be reached. Try again.") -> ApiError:
    """Return the error for a failure of the store."""
    return ApiError(Code.STORAGE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
