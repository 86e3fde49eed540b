"""The limits of connections, and how many files the process may open."""

import resource
from dataclasses import dataclass
from typing import Final

from penchant.service.settings import Settings
from penchant.service.telemetry.metrics import log

_OTHER_FILES: Final = 256
"""Files that the server opens besides connections of clients: the store, the encoder and what libraries need."""


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits of one connection, and of all connections.

    Attributes:
        connections: Connections that may be open.
        connections_per_peer: Connections of one address that may be open. 0: no limit.
        header_bytes: Bytes of a request line and all headers of a request.
        first_byte_seconds: Time from the opening of a connection to its first byte.
        header_seconds: Time from the first byte of a request to the end of its headers.
        body_seconds: Time from the end of the headers to the end of the body.
        read_seconds: Time in which a client must take the next 64 KiB of its answer.
    """

    connections: int
    connections_per_peer: int
    header_bytes: int
    first_byte_seconds: float
    header_seconds: float
    body_seconds: float
    read_seconds: float

    @classmethod
    def from_settings(cls, settings: Settings) -> "ConnectionLimits":
        """Return the limits of the settings. There are fewer connections if the process may not open so many files."""
        return cls(
            connections=_allow_connections(settings.max_connections),
            connections_per_peer=settings.max_connections_per_peer,
            header_bytes=settings.max_header_bytes,
            first_byte_seconds=settings.first_byte_timeout_seconds,
            header_seconds=settings.header_timeout_seconds,
            body_seconds=settings.body_timeout_seconds,
            read_seconds=settings.answer_read_timeout_seconds,
        )

    @property
    def sweep_seconds(self) -> float:
        """Interval at which connections are checked. A limit of time is exceeded by at most this much."""
        shortest = min(self.first_byte_seconds, self.header_seconds, self.body_seconds, self.read_seconds)
        return min(0.5, shortest / 4)


def _allow_connections(wanted: int) -> int:
    """Raise the process's limit of open files as far as it may, and return how many connections have room in it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return wanted
    room = max(allowed - _OTHER_FILES, allowed // 2)
    log.warning(
        "fewer_connections", open_files=allowed, connections=room, wanted=wanted, advice="raise `ulimit -n`"
    )
    return room
