"""The configuration of a client, read when the client is created and never changed after that."""

import os
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

import httpx
from pydantic import SecretStr

from penchant._retry import MAX_RETRIES, RetryPolicy
from penchant.errors import PenchantError

__all__ = ["DEFAULT_BASE_URL", "DEFAULT_TIMEOUT", "Config", "Timeout", "parse_timeout", "read_config"]

Timeout = float | httpx.Timeout | None
"""Seconds for each phase of a request, an `httpx.Timeout`, or None for the default."""

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8642"

_CONNECT_TIMEOUT_S: Final = 2.0
DEFAULT_TIMEOUT: Final = httpx.Timeout(10.0, connect=_CONNECT_TIMEOUT_S)

_USER_AGENT: Final = f"penchant-python/{version('penchant')}"


@dataclass(frozen=True)
class Config:
    """The options that every call of a client shares.

    Attributes:
        base_url: Address of the server, without a trailing slash.
        api_key: Key that is sent as a bearer token. It is never displayed.
        timeout: Limits of each phase of a request. None uses those of the HTTP client.
        retry: Policy that decides whether and when a failed call is repeated.
        user: User of every call that names none.
    """

    base_url: str = field(repr=False)  # may hold a password
    api_key: SecretStr | None
    timeout: httpx.Timeout | None
    retry: RetryPolicy
    user: str | None = None

    def build_headers(self) -> dict[str, str]:
        """Build the headers that every request carries."""
        headers = {"Accept": "application/json", "User-Agent": _USER_AGENT}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        return headers


def read_config(
    base_url: str | None, api_key: str | None, timeout: Timeout, max_retries: int | None
) -> Config:
    """Combine the arguments with ``PENCHANT_BASE_URL``, ``PENCHANT_API_KEY`` and the defaults, in this order.

    Raises:
        PenchantError: If the address or the key is malformed.
    """
    url = (base_url or os.environ.get("PENCHANT_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
    key = api_key or os.environ.get("PENCHANT_API_KEY") or None
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise PenchantError(f"`base_url` is not a valid URL: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise PenchantError("`base_url` must start with http:// or https:// and name a host.")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        # httpx would raise too, but with the key in its message.
        raise PenchantError(
            "`api_key` contains a space, a control character or a non-ASCII character (key not shown)."
        )
    retry = RetryPolicy(MAX_RETRIES if max_retries is None else max_retries)
    return Config(url, None if key is None else SecretStr(key), parse_timeout(timeout), retry)


def parse_timeout(timeout: Timeout) -> httpx.Timeout | None:
    """Turn a plain number into the limit of each phase, with connecting capped at its default limit."""
    if timeout is None or isinstance(timeout, httpx.Timeout):
        return timeout
    return httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT_S))
