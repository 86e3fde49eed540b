"""What both clients are made of: a transport, a configuration, and copies of themselves with another one."""

import copy
from dataclasses import replace
from typing import Generic, Self, TypeVar

import httpx

from penchant._config import Config, Timeout, read_timeout
from penchant._retry import RetryPolicy
from penchant._transport import AsyncTransport, Transport

__all__ = ["BaseClient"]

TransportT = TypeVar("TransportT", bound=Transport | AsyncTransport)


class BaseClient(Generic[TransportT]):
    """The half of a client that does no input or output."""

    def __init__(self, config: Config, transport: TransportT, *, owned: bool) -> None:
        self._config = config
        self._transport = transport
        self._owned = owned

    def with_options(self, *, timeout: Timeout = None, max_retries: int | None = None) -> Self:
        """A client with other options on the same connections; what is not given stays as it is.

        The copy does not own the connections: close the client that was made first.
        """
        config = self._config
        if timeout is not None:
            config = replace(config, timeout=read_timeout(timeout))
        if max_retries is not None:
            config = replace(config, retry=RetryPolicy(max_retries))
        return self._with(config)

    def for_user(self, user: str) -> Self:
        """A client on the same connections whose calls are this user's, where they name no other."""
        return self._with(replace(self._config, user=user))

    def __repr__(self) -> str:
        key = "none" if self._config.api_key is None else "***"
        # httpx hides a password in a URL; the user id is personal and stays out.
        url = httpx.URL(self._config.base_url)
        return f"<{type(self).__name__} {url!r} api_key={key}>"

    def _with(self, config: Config) -> Self:
        other = copy.copy(self)
        other._config = config
        other._owned = False
        return other

    def _user(self, user: str | None) -> str | None:
        return self._config.user if user is None else user

    def _named_user(self, user: str | None) -> str:
        named = self._user(user)
        if named is None:
            raise ValueError("which user? Give user=…, or make the client with for_user(…)")
        return named
