"""How a client is set up: read once at construction, then never changed."""

import os
from dataclasses import dataclass, field
from importlib.metadata import version

import httpx
from pydantic import SecretStr

from penchant._constants import CONNECT_TIMEOUT_S, DEFAULT_BASE_URL, MAX_RETRIES, TIMEOUT_S
from penchant._retry import RetryPolicy
from penchant.errors import PenchantError

__all__ = ["DEFAULT_TIMEOUT", "Config", "Timeout", "read_config", "read_timeout"]

Timeout = float | httpx.Timeout | None
"""Seconds; or each part of its own; or None for the default."""

DEFAULT_TIMEOUT = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)

_USER_AGENT = f"penchant-python/{version('penchant')}"


@dataclass(frozen=True)
class Config:
    """What every call of a client shares.

    Attributes:
        base_url: Without a slash at its end.
        api_key: Sent as a bearer token; shown nowhere.
        timeout: None leaves it to the HTTP client.
        retry: How often to try again.
        user: The user of every call that names none.
    """

    base_url: str = field(repr=False)  # may hold a password
    api_key: SecretStr | None
    timeout: httpx.Timeout | None
    retry: RetryPolicy
    user: str | None = None

    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        headers = {"Accept": "application/json", "User-Agent": _USER_AGENT}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        return headers


def read_config(
    base_url: str | None, api_key: str | None, timeout: Timeout, max_retries: int | None
) -> Config:
    """Arguments first, then ``PENCHANT_BASE_URL`` and ``PENCHANT_API_KEY``, then the defaults.

    Raises:
        PenchantError: The address or the key cannot be one.
    """
    url = (base_url or os.environ.get("PENCHANT_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
    key = api_key or os.environ.get("PENCHANT_API_KEY") or None
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise PenchantError(f"base_url is no URL: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise PenchantError("base_url must begin with http:// or https:// and name a host")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        # httpx would raise too, with the key in its message.
        raise PenchantError("api_key holds a space, a line break or a letter beyond ASCII (key not shown)")
    retry = RetryPolicy(MAX_RETRIES if max_retries is None else max_retries)
    return Config(url, None if key is None else SecretStr(key), read_timeout(timeout), retry)


def read_timeout(timeout: Timeout) -> httpx.Timeout | None:
    """A plain number is the limit of each phase; connecting never takes longer than its own default."""
    if timeout is None or isinstance(timeout, httpx.Timeout):
        return timeout
    return httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT_S))
