"""What a server takes before it loads anything that is slow to load: its port and its store.

A second server on the same port or folder therefore learns within a second which of the two is in use.
"""

import errno
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME, Store, StoreError
from penchant.service.store.keys import has_keys


class StartError(RuntimeError):
    """The server cannot start, for a reason that its operator can correct."""


@dataclass(frozen=True)
class Claims:
    """What a server has taken.

    Attributes:
        sockets: Sockets that are bound to the server's port and do not listen yet.
        store: The store, migrated, and locked if it is a folder.
    """

    sockets: list[socket.socket]
    store: Store

    def release(self) -> None:
        """Give everything back, if the server does not start after all."""
        for bound in self.sockets:
            bound.close()
        self.store.close()


def claim(settings: Settings, clock: Callable[[], float] = time.time) -> Claims:
    """Take what a server needs to itself.

    Args:
        settings: Settings of the server.
        clock: Function that returns the time in Unix seconds.

    Raises:
        StartError: If the port or the store is in use or cannot be used, or if a key is required and there is none.
    """
    check_exposure(settings)
    sockets = bind(settings.host, settings.port)
    try:
        return Claims(sockets, Store.open(settings, clock=clock))
    except BaseException as error:
        for bound in sockets:
            bound.close()
        if isinstance(error, StoreError):
            raise StartError(str(error)) from error
        raise


def check_exposure(settings: Settings) -> None:
    """Check that a server which other machines can reach requires keys.

    Raises:
        StartError: If the address is not loopback, no key exists, and PENCHANT_ALLOW_OPEN is not set.
    """
    if (
        settings.is_loopback()
        or settings.get_tenant_keys()
        or settings.allow_open
        or _has_stored_keys(settings)
    ):
        return
    raise StartError(
        f"{settings.host} can be reached from other machines: create a key with `penchant keys create`, "
        "set PENCHANT_API_KEY, or set PENCHANT_ALLOW_OPEN=true to serve everyone without a key."
    )


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address that a name stands for. They do not listen, so clients are refused until then.

    Raises:
        StartError: If the port is in use, or if the address is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"the host {host!r} has no address: {error.strerror}") from error
    sockets: list[socket.socket] = []
    refusal: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bind(family, kind, protocol, address))
        except OSError as error:
            refusal = error
            if error.errno == errno.EADDRINUSE:
                break
    # A machine without IPv6 still has the other address of `localhost`.
    if refusal is None or (sockets and refusal.errno != errno.EADDRINUSE):
        return sockets
    for bound in sockets:
        bound.close()
    raise explain_port(refusal, host, port) from refusal


def explain_port(error: OSError, host: str, port: int) -> StartError:
    """Return why a server cannot listen on a port."""
    if error.errno == errno.EADDRINUSE:
        return StartError(f"port {port} is in use: stop the other process, or set PENCHANT_PORT")
    reason = os.strerror(error.errno) if error.errno else error
    return StartError(f"{host} cannot be listened on at port {port}: {reason}")


def _bind(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _has_stored_keys(settings: Settings) -> bool:
    """Return whether a key was ever created in the store. Revoked keys stay, so that this remains true."""
    if settings.store_url is None and not (settings.data_dir / FILE_NAME).is_file():
        return False
    try:
        store = Store.open(settings, exclusive=False)
    except StoreError as error:
        raise StartError(str(error)) from error
    try:
        with store.reading() as connection:
            return has_keys(connection)
    finally:
        store.close()
