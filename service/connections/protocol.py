"""One connection: uvicorn's HTTP protocol, within limits of size and time that hold before any key is checked.

WAITING → HEAD → BODY → ANSWERING → HEAD → …        any of them → REFUSED

The parser is fed in slices, so that no call of it takes long and nothing beyond a limit is kept in memory. Times are not
measured for each request: the connection only notes a deadline when a request arrives in more than one piece, and
the registry's sweep looks at the deadlines.
"""

import asyncio
import time
from enum import IntEnum
from typing import Any, ClassVar, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from penchant.service.connections.refusals import Reason, format_answer
from penchant.service.connections.registry import ConnectionRegistry, group_peer
from penchant.service.errors import ApiError, Code

_SLICE_BYTES: Final = 2**14
_MAX_TRAILERS: Final = 100
_MAX_PIPELINED: Final = 16
_MAX_HELD_BYTES: Final = 2**20
_READ_BYTES: Final = 2**16
_LINGER_SECONDS: Final = 1.0
"""Time in which a refused client can read its answer. Closing at once would reset the connection if it still sends."""


class Stage(IntEnum):
    """What a connection is waiting for."""

    WAITING = 0  # the first byte
    HEAD = 1  # the rest of the headers
    BODY = 2  # the rest of the body
    ANSWERING = 3  # the answer, or the next request
    REFUSED = 4  # the client, which should read why, and leave


class BoundedProtocol(HttpToolsProtocol):
    """A connection. `bind_protocol` returns the class for the limits of a server.

    Args:
        config: Uvicorn's configuration.
        server_state: Uvicorn's state.
        app_state: State of the application's lifespan.
        _loop: The event loop.
    """

    registry: ClassVar[ConnectionRegistry]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.peer = ""
        self._limits = self.registry.limits
        self._slice_bytes = min(_SLICE_BYTES, self._limits.header_bytes)
        self._stage = Stage.WAITING
        self._deadline: float | None = None
        self._is_new = True  # no whole headers have arrived yet
        self._has_begun = False  # the request that is being received has a first line
        self._requests = 0
        self._answered_at = 0.0
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._held = b""  # pipelined requests that wait for the answers before them
        self._unread: tuple[int, float] | None = (
            None  # bytes of an answer that wait for the client, and since when
        )

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        self.peer = group_peer(self.client[0] if self.client else None)
        self._deadline = self.loop.time() + self._limits.first_byte_seconds
        reason = self.registry.admit(self)
        if reason is not None:
            self._record(reason)
            transport.write(format_answer(_too_many_connections()))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another connection."""
        self.registry.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, as far as the limits allow."""
        if self._held:
            self._hold(data)
        elif len(data) <= self._slice_bytes and self._stage is not Stage.HEAD and not self.pipeline:
            self._feed(data)
        else:
            self._feed_slices(data)

    def _feed_slices(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            if self.transport.is_closing() or self._stage is Stage.REFUSED:
                return
            if len(self.pipeline) >= _MAX_PIPELINED:
                self._hold(data[start:])
                return
            size = self._slice_bytes
            if self._stage is Stage.HEAD:
                size = min(size, self._limits.header_bytes - self._head_bytes)
            self._feed(data[start : start + size])
            start += size

    def _hold(self, data: bytes) -> None:
        self._held += data
        self.flow.pause_reading()
        if len(self._held) > _MAX_HELD_BYTES:
            self._record(Reason.PIPELINE)
            self.transport.abort()

    def _feed(self, data: bytes) -> None:
        if self._stage is Stage.REFUSED:
            return
        self._unset_keepalive_if_required()
        stage, requests, body_bytes = self._stage, self._requests, self._body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request is answered as any other; no other protocol is served
        except httptools.HttpParserError:
            detail = "The request is not HTTP that this server can parse."
            self._refuse(Reason.MALFORMED, ApiError(Code.MALFORMED_REQUEST, detail))
            return
        if self._stage is Stage.BODY:
            if stage is Stage.BODY and self._requests == requests:
                self._framing_bytes += len(data) - (self._body_bytes - body_bytes)
            self._check_body()
        elif self._requests == requests:
            self._check_head(len(data))
        elif self._stage is Stage.HEAD:
            self._check_head(0)  # most of the slice belongs to the requests before

    def _check_body(self) -> None:
        """Check a body of which more is to come."""
        self._deadline = self._deadline or self.loop.time() + self._limits.body_seconds
        is_padded = self._framing_bytes > self._limits.header_bytes + self._body_bytes
        if is_padded or len(self.headers) > _MAX_TRAILERS:
            detail = "The body has more bytes around its chunks, or more trailers, than this server reads."
            self._refuse(Reason.LARGE_FRAMING, ApiError(Code.HEADERS_TOO_LARGE, detail))

    def _check_head(self, received: int) -> None:
        """Check headers of which more are to come."""
        if self._stage is not Stage.HEAD:  # empty lines before a request belong to it
            self._begin_head()
        limit = self._limits.header_bytes
        self._deadline = self._deadline or self.loop.time() + self._limits.header_seconds
        self._head_bytes += received
        if self._head_bytes >= limit:
            detail = f"The request line and the headers may have {limit} bytes together."
            self._refuse(Reason.LARGE_HEADERS, ApiError(Code.HEADERS_TOO_LARGE, detail))

    def _begin_head(self) -> None:
        self._stage = Stage.HEAD
        self._deadline = None
        self._head_bytes = 0

    # What the parser finds.

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        if self._stage is not Stage.HEAD:
            self._begin_head()
        self._has_begun = True

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        super().on_headers_complete()
        self._stage = Stage.BODY
        self._deadline = None
        self._body_bytes = self._framing_bytes = 0
        if self._is_new:
            self._is_new = False
            self.registry.hear(self)
        self.headers = []  # the request keeps its own; trailers are not part of it

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._stage = Stage.ANSWERING
        self._deadline = None
        self._has_begun = False
        self._requests += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with pipelined requests."""
        # The loop's own time may have milliseconds, in which several connections are answered.
        self._answered_at = time.monotonic()
        super().on_response_complete()
        if self._held and not self.transport.is_closing():
            held, self._held = self._held, b""
            self._feed_slices(held)

    # Times.

    @property
    def idle_since(self) -> float | None:
        """Time at which the last request was answered. None while a request is in progress."""
        return None if self.timeout_keep_alive_task is None else self._answered_at

    def check(self, now: float) -> None:
        """Close the connection if it has been too slow."""
        self._check_reading(now)
        if self._deadline is None or now < self._deadline:
            return
        if self._stage is Stage.REFUSED:
            self.transport.abort()
        elif self._stage is Stage.WAITING:
            self._record(Reason.SILENT)
            self.transport.close()
        elif not self._is_answered:
            # The application answers a slow body itself, and what comes after the body can wait.
            self._deadline = now + self._limits.header_seconds
        elif self._stage is Stage.BODY:
            self._record(Reason.SLOW_BODY)
            self.transport.abort()
        elif self._has_begun:
            detail = f"The headers did not arrive within {self._limits.header_seconds:g} s."
            self._refuse(Reason.SLOW_HEADERS, ApiError(Code.REQUEST_TIMEOUT, detail))
        else:
            self._record(Reason.SLOW_HEADERS)
            self.transport.close()

    def give_way(self, reason: Reason) -> None:
        """Close the connection, because another one needs its place."""
        self._record(reason)
        self.transport.abort()

    def _check_reading(self, now: float) -> None:
        """Close the connection if the client does not read its answer."""
        waiting = self.transport.get_write_buffer_size()
        if not waiting:
            self._unread = None
        elif self._unread is None or waiting <= self._unread[0] - _READ_BYTES:
            self._unread = waiting, now
        elif now - self._unread[1] >= self._limits.read_seconds:
            self._record(Reason.UNREAD)
            self.transport.abort()

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self._unread = None
        super().resume_writing()

    # Refusing.

    @property
    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _record(self, reason: Reason) -> None:
        self.registry.refusals.record(reason, self.peer)

    def _refuse(self, reason: Reason, error: ApiError) -> None:
        """Answer with an error, and close the connection. An answer that is in progress is completed instead."""
        self._record(reason)
        is_of_body = self._stage is Stage.BODY and not self.pipeline
        self._stage = Stage.REFUSED
        self._deadline = None
        if not self._is_answered:
            if not is_of_body or self.cycle.response_started:
                self.cycle.keep_alive = False
                return
            self.cycle.disconnected = True  # the application stops to wait for the body
            self.cycle.message_event.set()
        self._deadline = self.loop.time() + _LINGER_SECONDS
        self.transport.write(format_answer(error))
        self.transport.write_eof()
        self.flow.resume_reading()


def bind_protocol(registry: ConnectionRegistry) -> type[BoundedProtocol]:
    """Return the class of a server's connections, which uvicorn's setting `http` takes."""
    return type("BoundProtocol", (BoundedProtocol,), {"registry": registry})


def _too_many_connections() -> ApiError:
    detail = "Too many connections are open. Close some, or try again."
    return ApiError(Code.TOO_MANY_CONNECTIONS, detail, headers={"Retry-After": "1"})
