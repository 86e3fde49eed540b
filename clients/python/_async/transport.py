"""Sends calls and repeats those that fail."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

from penchant._calls import Call
from penchant._config import Config
from penchant._http import build_connection_error, build_request, compute_retry_delay, parse_response

__all__ = ["AsyncTransport"]

T = TypeVar("T")


class AsyncTransport:
    """Runs calls on an `httpx.AsyncClient`.

    A call takes three steps: `run` sends the request and parses the response, `_send` repeats failed attempts, and
    httpx does the I/O.

    Args:
        http: Client that sends the requests.
        sleep: Function that waits for a number of seconds before the next attempt.
    """

    def __init__(
        self, http: httpx.AsyncClient, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.http = http
        self._sleep = sleep

    async def run(self, call: Call[T], config: Config) -> T:
        """Send a call and return its value.

        Raises:
            APIError: If the call does not succeed.
        """
        return parse_response(call, await self._send(call, config))

    async def _send(self, call: Call[Any], config: Config) -> httpx.Response:
        request = build_request(self.http, call, config)
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self.http.send(request)
            except httpx.RequestError as cause:
                delay = config.retry.delay_after_failure(attempt)
                if delay is None:
                    raise build_connection_error(cause, call) from cause
            else:
                delay = compute_retry_delay(response, call, attempt, config)
                if delay is None:
                    return response
            await self._sleep(delay)
