"""Runs the service: one process, one event loop."""

import sys

import uvicorn

from penchant.service.app import create_app
from penchant.service.runtime import StartError, load_bundle, load_extractor
from penchant.service.settings import Settings
from penchant.service.store.database import FILE_NAME
from penchant.service.telemetry import configure_logging, log


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


def run(settings: Settings) -> None:
    """Serves until it is told to stop, then finishes what it accepted.

    Raises:
        StartError: It cannot start, for a reason that its operator can change.
    """
    check_exposure(settings)
    configure_logging(settings.log_level)
    bundle = load_bundle(settings)
    extractor = load_extractor(settings, bundle)
    app = create_app(settings, extractor=extractor, bundle=bundle)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    database = settings.data_dir.resolve() / FILE_NAME
    log.info("starting", url=f"http://{host}:{settings.port}", database=str(database), bundle=bundle.version)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            workers=1,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
        )
    )
    server.run()
    if not server.started:
        raise StartError("The server could not start; the log above says why.")


if __name__ == "__main__":
    try:
        run(Settings())
    except StartError as error:
        sys.exit(f"penchant: {error}")
