"""What can go wrong, as one tree.

    PenchantError                         everything below; also a client that was set up wrongly
    └─ APIError                           a call did not succeed
       ├─ APIStatusError                  the server answered with an error: status, code, request_id
       │  ├─ BadRequestError              400
       │  ├─ AuthenticationError          401
       │  ├─ PermissionDeniedError        403
       │  ├─ NotFoundError                404
       │  ├─ ConflictError                409  the same idempotency key is in flight
       │  ├─ PayloadTooLargeError         413
       │  ├─ UnprocessableEntityError     422
       │  ├─ RateLimitError               429
       │  └─ InternalServerError          5xx
       ├─ APIResponseValidationError      the server answered with success, in a shape that is not ours
       └─ APIConnectionError              no answer came
          └─ APITimeoutError              … within the time allowed

An error message holds what the server said, never what was sent: no texts, no key.
"""

from collections.abc import Mapping
from typing import Any, Final

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "ConflictError",
    "InternalServerError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PenchantError",
    "PermissionDeniedError",
    "RateLimitError",
    "UnprocessableEntityError",
]


class PenchantError(Exception):
    """The root of every error that this package raises."""


class APIError(PenchantError):
    """A call did not succeed."""


class APIStatusError(APIError):
    """The server answered with an error.

    Attributes:
        status: HTTP status.
        code: The server's stable name for the problem (``user_not_found``), or None from a proxy's answer.
        request_id: What to quote when asking about it, or None.
        errors: Which fields were refused: each has ``pointer`` (JSON pointer) and ``detail``.
        retry_after_s: How long the server asks to wait, in seconds, or None.
        body: The whole decoded answer: a mapping (problem+json), or text.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        request_id: str | None = None,
        errors: tuple[Mapping[str, Any], ...] = (),
        retry_after_s: float | None = None,
        body: Mapping[str, Any] | str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.body = body

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default, and errors cross process borders in workers.
        return _restore, (type(self), self.message, dict(self.__dict__))


class BadRequestError(APIStatusError):
    """400: the request contradicts itself (two different users, for example)."""


class AuthenticationError(APIStatusError):
    """401: no key, or not a valid one."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: no such user, model or path."""


class ConflictError(APIStatusError):
    """409: a request with the same idempotency key is still in flight."""


class PayloadTooLargeError(APIStatusError):
    """413: the request is larger than the server takes."""


class UnprocessableEntityError(APIStatusError):
    """422: a field is missing, wrong or out of range; ``errors`` names it."""


class RateLimitError(APIStatusError):
    """429: too many requests; ``retry_after_s`` says how long to wait."""


class InternalServerError(APIStatusError):
    """5xx: the server, or something before it, failed."""


class APIResponseValidationError(APIError):
    """A successful answer did not have the documented shape: most often not a penchant server."""


class APIConnectionError(APIError):
    """No answer came: refused, reset, or the name is unknown. The cause is chained."""


class APITimeoutError(APIConnectionError):
    """No answer came within the time allowed."""


_BY_STATUS: Final[dict[int, type[APIStatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: PayloadTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def class_for_status(status: int) -> type[APIStatusError]:
    """The error class that a status raises."""
    return _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)


def _restore(cls: type[APIStatusError], message: str, state: dict[str, Any]) -> APIStatusError:
    error = cls(message, status=state["status"])
    error.__dict__.update(state)
    return error
