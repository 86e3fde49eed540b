"""The server: one process with one event loop."""

import gc
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.app import create_app
from penchant.service.bundles.loading import load_bundle
from penchant.service.claims import Claims, StartError, claim, explain_port
from penchant.service.connections.limits import ConnectionLimits
from penchant.service.connections.protocol import bind_protocol
from penchant.service.connections.registry import ConnectionRegistry
from penchant.service.draining import DrainingServer
from penchant.service.settings import Settings, SettingsError, read_settings
from penchant.service.store.database import store_name
from penchant.service.telemetry.metrics import configure_logging, log
from penchant.service.telemetry.setup import TracingError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class FrozenHeapServer(DrainingServer):
    """A server whose garbage collector ignores the objects that exist when the server has started.

    A full collection would otherwise visit every object of every library, which takes tens of milliseconds.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server, then freeze the objects that exist."""
        try:
            await super().startup(sockets)
        except OSError:  # it cannot listen
            await self.lifespan.shutdown()
            raise
        gc.collect()
        gc.freeze()


def run(
    settings: Settings,
    *,
    bundle: Bundle | None = None,
    extractor: FeatureExtractor | None = None,
    clock: Callable[[], float] = time.time,
    claims: Claims | None = None,
) -> None:
    """Serve until a signal stops the process, then finish the accepted work.

    Args:
        settings: Settings of the server.
        bundle: Bundle to rank with, regardless of settings and store.
        extractor: Extractor in place of the bundle's.
        clock: Function that returns the time in Unix seconds.
        claims: Port and store of the server, if they were taken before this module was imported.

    Raises:
        StartError: If the server cannot start, for a reason that its operator can correct.
    """
    configure_logging(settings.log_level)
    claims = claims or claim(settings, clock)
    try:
        if bundle is None and settings.bundle is not None:
            bundle = load_bundle(settings)
        app = create_app(settings, extractor=extractor, bundle=bundle, clock=clock, store=claims.store)
    except TracingError as error:
        claims.release()
        raise StartError(str(error)) from error
    except BaseException:
        claims.release()
        raise

    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        async def send_briefly(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and app.state.start_failure is not None:
                message = {"type": message["type"]}  # without the traceback, which the operator does not need
            await send(message)

        await app(scope, receive, send_briefly if scope["type"] == "lifespan" else send)

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    log.info("starting", url=url, database=store_name(settings))
    server = FrozenHeapServer(
        uvicorn.Config(
            serve,
            http=bind_protocol(
                ConnectionRegistry(ConnectionLimits.from_settings(settings), app.state.telemetry)
            ),
            ws="none",
            workers=1,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
        ),
        app.state.draining,
        settings.drain_seconds,
    )
    try:
        server.run(claims.sockets)
    except KeyboardInterrupt:  # uvicorn has stopped, and raises the signal again
        return
    except OSError as error:
        if server.started:
            raise
        raise explain_port(error, settings.host, settings.port) from error
    except SystemExit as end:
        if server.started:
            raise
        reason = app.state.start_failure or "see the log above"
        raise StartError(f"The server could not start: {reason}") from end


if __name__ == "__main__":
    try:
        run(read_settings())
    except (SettingsError, StartError) as error:
        sys.exit(f"penchant: {error}")
