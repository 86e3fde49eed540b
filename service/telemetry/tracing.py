"""Traces: off unless told where to send them, and then by OpenTelemetry (`penchant.service.telemetry.otel`), an extra.

request (continues the caller's `traceparent`)
  ├─ rank     candidates → order
  │    └─ encode   texts that no cache knew
  └─ commit   feedback, until it is durable

No span holds a text or a user's id.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from starlette.types import ASGIApp

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NOTHING: Final = nullcontext()

Attribute = str | int | float | bool


class TracingError(RuntimeError):
    """Tracing was asked for, and its packages are not installed."""


class Tracing:
    """No tracing: every span is nothing, and costs a call.

    Spans lie within each other as their `with` blocks do, across `await` as well.
    """

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:  # noqa: ARG002
        """Times a step within a request; its attributes are `penchant.` + name."""
        return _NOTHING

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wraps an application: its requests are timed."""
        return app

    def stop(self) -> None:
        """Sends what waits to be sent; may take seconds."""


def from_environment(wanted: bool | None) -> Tracing:
    """Tracing as the environment asks for it; what is exported, where and how much of it is OTEL_*'s to say.

    Args:
        wanted: False never traces, True insists, None traces where an OTLP endpoint is named.

    Raises:
        TracingError: It should trace, and the extra is not installed.
    """
    if wanted is False or (wanted is None and not any(os.environ.get(name) for name in _ENDPOINTS)):
        return Tracing()
    try:
        from penchant.service.telemetry.otel import exporting  # noqa: PLC0415 - an extra, and half a second
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("penchant"):
            raise
        raise TracingError(
            f"Tracing needs {error.name}: pip install 'penchant[otel]', or set PENCHANT_TRACING=false."
        ) from error
    return exporting()
