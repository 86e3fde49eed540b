"""The part of a client that holds its configuration and its connections."""

import copy
from dataclasses import replace
from types import TracebackType
from typing import Self

import httpx

from penchant._async.transport import AsyncTransport
from penchant._calls import Call, T
from penchant._config import Config, Timeout, parse_timeout
from penchant._retry import RetryPolicy

__all__ = ["AsyncBaseClient"]


class AsyncBaseClient:
    """The part of `AsyncClient` that is the same for every endpoint."""

    def __init__(self, config: Config, transport: AsyncTransport, *, owns_http: bool) -> None:
        self._config = config
        self._transport = transport
        self._owns_http = owns_http

    def with_options(self, *, timeout: Timeout = None, max_retries: int | None = None) -> Self:
        """Return a client with other options that shares the connections of this one.

            patient = client.with_options(timeout=60.0, max_retries=5)

        The copy does not own the connections: closing it does not close them, closing the original client does.

        Args:
            timeout: Seconds for each phase of a request, or an `httpx.Timeout`. Unchanged if not given.
            max_retries: Attempts after the first. Unchanged if not given.
        """
        config = self._config
        if timeout is not None:
            config = replace(config, timeout=parse_timeout(timeout))
        if max_retries is not None:
            config = replace(config, retry=RetryPolicy(max_retries))
        return self._copy_with(config)

    def for_user(self, user: str) -> Self:
        """Return a client for one user that shares the connections of this one.

            ana = client.for_user("ana")

        Its calls are made for this user unless they name another. As with `with_options`, closing the copy does not
        close the connections.

        Args:
            user: User id, 1 to 128 characters.
        """
        return self._copy_with(replace(self._config, user=user))

    async def close(self) -> None:
        """Close the connections, unless you passed the ``http_client``."""
        if self._owns_http:
            await self._transport.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        key = "none" if self._config.api_key is None else "***"
        # httpx hides a password in a URL. The user id is personal and is left out.
        url = httpx.URL(self._config.base_url)
        return f"<{type(self).__name__} {url!r} api_key={key}>"

    def _copy_with(self, config: Config) -> Self:
        other = copy.copy(self)
        other._config = config
        other._owns_http = False
        return other

    async def _run(self, call: Call[T]) -> T:
        return await self._transport.run(call, self._config)

    def _resolve_user(self, user: str | None) -> str | None:
        return self._config.user if user is None else user

    def _require_user(self, user: str | None) -> str:
        resolved = self._resolve_user(user)
        if resolved is None:
            raise ValueError("No user given. Pass `user=`, or create the client with `for_user()`.")
        return resolved
