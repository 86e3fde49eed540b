"""The server: one process with one event loop."""

import gc
import socket
import sys
import time
from collections.abc import Callable

import uvicorn

from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.service.app import create_app
from penchant.service.bundles.loading import StartError, load_bundle
from penchant.service.connections.limits import ConnectionLimits
from penchant.service.connections.protocol import bind_protocol
from penchant.service.connections.registry import ConnectionRegistry
from penchant.service.draining import DrainingServer
from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME, Store, StoreError, store_name
from penchant.service.store.keys import has_keys
from penchant.service.telemetry.metrics import configure_logging, log
from penchant.service.telemetry.setup import TracingError


class FrozenHeapServer(DrainingServer):
    """A server whose garbage collector ignores the objects that exist when the server has started.

    A full collection would otherwise visit every object of every library, which takes tens of milliseconds.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server, then freeze the objects that exist."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()


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


def run(
    settings: Settings,
    *,
    bundle: Bundle | None = None,
    extractor: FeatureExtractor | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Serve until a signal stops the process, then finish the accepted work.

    Args:
        settings: Settings of the server.
        bundle: Bundle to rank with, regardless of settings and store.
        extractor: Extractor in place of the bundle's.
        clock: Function that returns the time in Unix seconds.

    Raises:
        StartError: If the server cannot start, for a reason that its operator can correct.
    """
    check_exposure(settings)
    configure_logging(settings.log_level)
    if bundle is None and settings.bundle is not None:
        bundle = load_bundle(settings)
    try:
        app = create_app(settings, extractor=extractor, bundle=bundle, clock=clock)
    except TracingError as error:
        raise StartError(str(error)) from error
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    log.info("starting", url=url, database=store_name(settings))
    server = FrozenHeapServer(
        uvicorn.Config(
            app,
            http=bind_protocol(
                ConnectionRegistry(ConnectionLimits.from_settings(settings), app.state.telemetry)
            ),
            ws="none",
            host=settings.host,
            port=settings.port,
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
        server.run()
    except KeyboardInterrupt:  # uvicorn has stopped, and raises the signal again
        return
    except SystemExit as end:
        if server.started:
            raise
        reason = app.state.start_failure or "see the log above"
        raise StartError(f"The server could not start: {reason}") from end


if __name__ == "__main__":
    try:
        run(Settings())
    except StartError as error:
        sys.exit(f"penchant: {error}")
