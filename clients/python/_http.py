"""Turns a call into an HTTP request, and its response into a value or an error. This module does no I/O."""

from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from penchant import errors
from penchant._calls import Call
from penchant._config import Config
from penchant._retry import parse_retry_after

__all__ = ["build_connection_error", "build_request", "compute_retry_delay", "parse_response"]

T = TypeVar("T")


def build_request(http: httpx.Client | httpx.AsyncClient, call: Call[Any], config: Config) -> httpx.Request:
    """Build the request of a call. Retries send the same request again, idempotency key included."""
    headers = config.build_headers()
    if call.idempotency_key is not None:
        headers["Idempotency-Key"] = call.idempotency_key
    timeout = http.timeout if config.timeout is None else config.timeout
    return http.build_request(
        call.method,
        config.base_url + call.path,
        json=call.json,
        params=dict(call.params) or None,
        headers=headers,
        timeout=timeout,
    )


def compute_retry_delay(
    response: httpx.Response, call: Call[Any], attempt: int, config: Config
) -> float | None:
    """Return the seconds to wait before the call is repeated, or None if this response is final."""
    if response.status_code in call.expected_statuses:
        return None
    return config.retry.delay_after_status(attempt, response.status_code, response.headers)


def parse_response(call: Call[T], response: httpx.Response) -> T:
    """Return the value of a successful response.

    Raises:
        APIStatusError: If the status is an error that the call does not expect.
        APIResponseValidationError: If the body does not have the documented shape.
    """
    if not response.is_success and response.status_code not in call.expected_statuses:
        raise _build_status_error(response)
    try:
        return call.parse(response.status_code, response.json() if response.content else None)
    except ValidationError as error:
        # The cause and the input are left out: responses hold users' texts, and tracebacks end up in logs.
        details = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise errors.APIResponseValidationError(
            f"The response to {_describe(call)} has an unknown shape: {details}"
        ) from None
    except ValueError:
        raise errors.APIResponseValidationError(f"The response to {_describe(call)} is not JSON.") from None


def build_connection_error(cause: httpx.RequestError, call: Call[Any]) -> errors.APIConnectionError:
    """Build the error of a call that got no response."""
    if isinstance(cause, httpx.TimeoutException):
        return errors.APITimeoutError(f"{_describe(call)} timed out ({type(cause).__name__}).")
    return errors.APIConnectionError(f"{_describe(call)} got no response: {cause or type(cause).__name__}")


def _build_status_error(response: httpx.Response) -> errors.APIStatusError:
    status, body = response.status_code, _parse_problem(response)
    field_errors = body.get("errors")
    if not isinstance(field_errors, list):
        field_errors = []
    field_errors = [entry for entry in field_errors if isinstance(entry, Mapping)]
    code = body.get("code")
    detail = body.get("detail") or body.get("message") or body.get("title") or response.reason_phrase
    request_id = body.get("request_id") or response.headers.get("x-request-id")
    fields = "".join(f"; {entry.get('pointer', '?')}: {entry.get('detail', '')}" for entry in field_errors)
    return errors.find_error_class(status)(
        f"{status} {code or 'error'}: {detail}{fields}" + (f" [request {request_id}]" if request_id else ""),
        status=status,
        code=code,
        request_id=request_id,
        errors=tuple(field_errors),
        retry_after_s=parse_retry_after(response.headers),
        body=body or response.text,
    )


def _parse_problem(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _describe(call: Call[Any]) -> str:
    # The path of a user's calls holds the user id, which does not belong in a log.
    return f"{call.method} {'/v1/users/{user}' if call.path.startswith('/v1/users/') else call.path}"
