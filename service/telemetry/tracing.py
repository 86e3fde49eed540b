"""Traces: off unless told where to send them, and then by OpenTelemetry (`penchant.service.telemetry.otel`), an extra.

request (continues the caller's `traceparent`)
  ├─ rank     candidates → order
  │    └─ encode   texts that no cache knew
  └─ commit   feedback, until it is durable

No span holds a text or a user's id.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from starlette.types import ASGIApp

_NOTHING: Final = nullcontext()

Attribute = str | int | float | bool


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
