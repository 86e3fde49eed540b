"""Selection of the tracing that settings and environment ask for."""

import os
from typing import Final

from penchant.service.telemetry.metrics import Tracing

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TracingError(RuntimeError):
    """Tracing is on, but its packages are not installed."""


def create_tracing(enabled: bool | None) -> Tracing:
    """Return the tracing that the environment asks for. The OTEL_* variables say what is exported, and where.

    Args:
        enabled: True always traces, False never does. None traces if an OTLP endpoint is set.

    Raises:
        TracingError: If tracing is on and its extra is not installed.
    """
    if enabled is False or (enabled is None and not any(os.environ.get(name) for name in _ENDPOINTS)):
        return Tracing()
    try:
        from penchant.service.telemetry.otel import create_otlp_tracing  # noqa: PLC0415 - an extra, and half a second
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("penchant"):
            raise
        raise TracingError(
            f"Tracing needs {error.name}: pip install 'penchant[otel]', or set PENCHANT_TRACING=false."
        ) from error
    return create_otlp_tracing()
