"""From a call to its answer: the request, the retries, and the one place where an answer becomes an error.

The path of a call is three short steps, the same in both classes: ``run`` (send, then read) → ``_send``
(tries and waits) → httpx.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from penchant import errors
from penchant._calls import Call
from penchant._config import Config
from penchant._retry import retry_after_s

__all__ = ["AsyncTransport", "Transport"]

T = TypeVar("T")


class Transport:
    """Runs calls one after another on an `httpx.Client`."""

    def __init__(self, http: httpx.Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self.http = http
        self._sleep = sleep

    def run(self, call: Call[T], config: Config) -> T:
        """Sends the call and reads its answer; raises an `APIError` where there is none to read."""
        return _read(call, self._send(call, config))

    def _send(self, call: Call[Any], config: Config) -> httpx.Response:
        request = _request(self.http, call, config)
        tries = 0
        while True:
            tries += 1
            try:
                response = self.http.send(request)
            except httpx.RequestError as cause:
                delay = config.retry.after_failure(tries)
                if delay is None:
                    raise _no_answer(cause, call) from cause
            else:
                delay = _delay_after(response, call, tries, config)
                if delay is None:
                    return response
            self._sleep(delay)


class AsyncTransport:
    """Runs calls on an `httpx.AsyncClient`."""

    def __init__(
        self, http: httpx.AsyncClient, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.http = http
        self._sleep = sleep

    async def run(self, call: Call[T], config: Config) -> T:
        """Sends the call and reads its answer; raises an `APIError` where there is none to read."""
        return _read(call, await self._send(call, config))

    async def _send(self, call: Call[Any], config: Config) -> httpx.Response:
        request = _request(self.http, call, config)
        tries = 0
        while True:
            tries += 1
            try:
                response = await self.http.send(request)
            except httpx.RequestError as cause:
                delay = config.retry.after_failure(tries)
                if delay is None:
                    raise _no_answer(cause, call) from cause
            else:
                delay = _delay_after(response, call, tries, config)
                if delay is None:
                    return response
            await self._sleep(delay)


def _request(http: httpx.Client | httpx.AsyncClient, call: Call[Any], config: Config) -> httpx.Request:
    """Made once a call: its retries repeat it byte for byte, idempotency key included."""
    headers = config.headers()
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


def _delay_after(response: httpx.Response, call: Call[Any], tries: int, config: Config) -> float | None:
    if response.status_code in call.expected:
        return None
    return config.retry.after_status(tries, response.status_code, response.headers)


def _read(call: Call[T], response: httpx.Response) -> T:
    if not response.is_success and response.status_code not in call.expected:
        raise _status_error(response)
    try:
        return call.read(response.status_code, response.json() if response.content else None)
    except ValidationError as error:
        # The cause is cut off and the input left out: answers hold users' texts, tracebacks end in logs.
        found = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise errors.APIResponseValidationError(
            f"{_name(call)} was answered in an unknown shape: {found}"
        ) from None
    except ValueError:
        raise errors.APIResponseValidationError(
            f"{_name(call)} was answered with something other than JSON"
        ) from None


def _status_error(response: httpx.Response) -> errors.APIStatusError:
    status, body = response.status_code, _problem(response)
    fields = tuple(e for e in _list(body.get("errors")) if isinstance(e, Mapping))
    code = body.get("code")
    detail = body.get("detail") or body.get("message") or body.get("title") or response.reason_phrase
    request_id = body.get("request_id") or response.headers.get("x-request-id")
    where = "".join(f"; {e.get('pointer', '?')}: {e.get('detail', '')}" for e in fields)
    return errors.class_for_status(status)(
        f"{status} {code or 'error'}: {detail}{where}" + (f" [request {request_id}]" if request_id else ""),
        status=status,
        code=code,
        request_id=request_id,
        errors=fields,
        retry_after_s=retry_after_s(response.headers),
        body=body or response.text,
    )


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _no_answer(cause: httpx.RequestError, call: Call[Any]) -> errors.APIConnectionError:
    if isinstance(cause, httpx.TimeoutException):
        return errors.APITimeoutError(f"{_name(call)} was not answered in time ({type(cause).__name__})")
    return errors.APIConnectionError(f"{_name(call)} got no answer: {cause or type(cause).__name__}")


def _name(call: Call[Any]) -> str:
    # A user's path holds the user id, which does not belong in a log.
    return f"{call.method} {'/v1/users/{user}' if call.path.startswith('/v1/users/') else call.path}"
