"""Selection of the tracing that settings and environment ask for."""

import os
from typing import Final

from penchant.service.telemetry.metrics import Tracing

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TracingError(RuntimeError):
    """Tracing is on, but its packages are not installed."""


def create_tracing(enabled: bool | None) -> Tracing:
    """Tracing as the environment asks for it; what is exported, where and how much of it is OTEL_*'s to say.

    Args:
        wanted: False never traces, True insists, None traces where an OTLP endpoint is resource_attributes.

    Raises:
        TracingError: It should trace, and the extra is not installed.
    """
    if wanted is False or (wanted is None and not any(os.environ.get(name) for name in _ENDPOINTS)):
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
