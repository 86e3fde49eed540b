"""Runs the service: one process, one event loop."""

import sys
import time
from collections.abc import Callable

import uvicorn

from penchant.models.bundle import Bundle
from penchant.models.features import FeatureExtractor
from penchant.service.app import create_app
from penchant.service.draining import DrainingServer
from penchant.service.runtime import StartError, load_bundle, load_extractor
from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME
from penchant.service.telemetry import configure_logging, log
from penchant.service.tracing import TracingError


def check_exposure(settings: Settings) -> None:
    """Refuses to serve strangers.

    Raises:
        StartError: The address is not loopback and there is neither a key nor leave to do without one.
    """
    if settings.is_loopback() or settings.tenant_keys() or settings.allow_open:
        return
    raise StartError(
        f"{settings.host} can be reached from other machines: set PENCHANT_API_KEY, "
        "or PENCHANT_ALLOW_OPEN=true to serve everybody without one."
    )


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
        bundle: In place of the one that the settings name.
        extractor: In place of the encoder that the bundle names.
        clock: Unix seconds.

    Raises:
        StartError: It cannot start, for a reason that its operator can change.
    """
    check_exposure(settings)
    configure_logging(settings.log_level)
    bundle = bundle or load_bundle(settings)
    extractor = extractor or load_extractor(settings, bundle)
    try:
        app = create_app(settings, extractor=extractor, bundle=bundle, clock=clock)
    except TracingError as error:
        raise StartError(str(error)) from error
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    database = settings.data_dir.resolve() / FILE_NAME
    log.info("starting", url=f"http://{host}:{settings.port}", database=str(database), bundle=bundle.version)
    server = DrainingServer(
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
