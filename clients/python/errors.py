"""The errors that the SDK raises, as one tree.

    PenchantError                         any error of this package, such as a malformed base_url or api_key
    └─ APIError                           a call did not succeed
       ├─ APIStatusError                  the server responded with an error: status, code, request_id
       │  ├─ BadRequestError              400
       │  ├─ AuthenticationError          401
       │  ├─ PermissionDeniedError        403
       │  ├─ NotFoundError                404
       │  ├─ ConflictError                409  another request with this idempotency key is in progress
       │  ├─ PayloadTooLargeError         413
       │  ├─ UnprocessableEntityError     422
       │  ├─ RateLimitError               429
       │  └─ InternalServerError          5xx
       ├─ APIResponseValidationError      the response is successful, but its shape is unknown
       └─ APIConnectionError              no response was received
          └─ APITimeoutError              no response was received in time

Error messages quote the server's response, never the request. They contain no texts and no API key.

    try:
        client.users.get(user="ana")
    except penchant.NotFoundError as error:
        print(error.code, error.request_id)
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
    """Base of every error that this package defines."""


class APIError(PenchantError):
    """A call did not succeed."""


class APIStatusError(APIError):
    """The server responded with an error.

    Attributes:
        message: Error message, which `str` returns too.
        status: HTTP status.
        code: The server's stable name for the problem, such as ``user_not_found``. None if a proxy responded.
        request_id: Id of the request, to quote in a bug report. None if the response has none.
        errors: Fields that the server refused. Each has a ``pointer`` (JSON pointer) and a ``detail``.
        retry_after_s: Seconds that the server asks to wait before a retry. None if it does not ask for a wait.
        body: Decoded body of the response: a mapping (problem+json) or text.
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
        # Pickle cannot pass keyword-only arguments by default, and worker processes pickle the errors they raise.
        return _restore_error, (type(self), self.message, dict(self.__dict__))


class BadRequestError(APIStatusError):
    """400: the request contradicts itself, for example by naming two different users."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or invalid."""


class PermissionDeniedError(APIStatusError):
    """403: the API key does not permit this call."""


class NotFoundError(APIStatusError):
    """404: the user, model or path does not exist."""


class ConflictError(APIStatusError):
    """409: another request with the same idempotency key is still in progress."""


class PayloadTooLargeError(APIStatusError):
    """413: the request is larger than the server accepts."""


class UnprocessableEntityError(APIStatusError):
    """422: a field is missing, wrong or out of range. ``errors`` names it."""


class RateLimitError(APIStatusError):
    """429: too many requests. ``retry_after_s`` is the time to wait, in seconds."""


class InternalServerError(APIStatusError):
    """5xx: the server, or a proxy in front of it, failed."""


class APIResponseValidationError(APIError):
    """A successful response does not have the documented shape. Usually the address is not that of a penchant server."""


class APIConnectionError(APIError):
    """No response was received: the connection was refused or reset, or the host is unknown. The cause is chained."""


class APITimeoutError(APIConnectionError):
    """No response was received within the timeout."""


_CLASSES_BY_STATUS: Final[dict[int, type[APIStatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: PayloadTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def find_error_class(status: int) -> type[APIStatusError]:
    """Return the error class for a status."""
    return _CLASSES_BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)


def _restore_error(cls: type[APIStatusError], message: str, state: dict[str, Any]) -> APIStatusError:
    error = cls(message, status=state["status"])
    error.__dict__.update(state)
    return error
