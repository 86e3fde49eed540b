"""Runs the service: one process, one event loop."""

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
from penchant.service.draining import DrainingServer
from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME, Store, StoreError, store_name
from penchant.service.store.keys import has_keys
from penchant.service.telemetry.metrics import configure_logging, log
from penchant.service.telemetry.setup import TracingError


class SettledServer(DrainingServer):
    """A server whose garbage collector leaves alone what is there once it has started.

    A full collection would look at every object of every library, for tens of milliseconds in the midst of a request.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called once, before the first request."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()


def check_exposure(settings: Settings) -> None:
    """Refuses to serve strangers.

    Raises:
        StartError: The address is not loopback and there is neither a key nor leave to do without one.
    """
    if settings.is_loopback() or settings.get_tenant_keys() or settings.allow_open or _has_stored_keys(settings):
        return
    raise StartError(
        f"{settings.host} can be reached from other machines: make a key with `penchant keys create`, "
        "set PENCHANT_API_KEY, or PENCHANT_ALLOW_OPEN=true to serve everybody without one."
    )


def _has_stored_keys(settings: Settings) -> bool:
    """Whether a key was ever made in the store; keys are never removed, so this stays true."""
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
    """Serves until it is told to stop, then finishes what it accepted.

    Args:
        settings: Everything configurable.
        bundle: Rank with this one alone, whatever settings and store name.
        extractor: In place of the encoder that the bundle names.
        clock: Unix seconds.

    Raises:
        StartError: It cannot start, for a reason that its operator can change.
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
    server = SettledServer(
        uvicorn.Config(
            app,
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
    except KeyboardInterrupt:  # uvicorn has stopped in good order, then hands the signal on
        return
    except SystemExit as end:
        if server.started:
            raise
        reason = app.state.start_failure or "the log above says why"
        raise StartError(f"The server could not start: {reason}") from end


if __name__ == "__main__":
    try:
        run(Settings())
    except StartError as error:
        sys.exit(f"penchant: {error}")
