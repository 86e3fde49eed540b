"""A server that announces its stop in advance, so that a load balancer sends requests to other servers.

signal → /readyz fails, answers close their connections → `drain_seconds` pass → no new connections → last answers → exit
"""

import time
from dataclasses import dataclass
from types import FrameType

import uvicorn

from penchant.service.telemetry.metrics import log


@dataclass
class Draining:
    """Whether the server is about to stop. The signal handler sets it, and the HTTP interface reads it.

    Attributes:
        since: Time of the stop signal on the monotonic clock, in seconds. None before the signal.
    """

    since: float | None = None

    def __bool__(self) -> bool:
        return self.since is not None


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, extended to keep serving for a while after a stop signal.

    Args:
        config: Uvicorn's configuration.
        draining: Set at the first stop signal.
        seconds: Time to keep serving after the signal. A second signal ends it immediately.
    """

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float) -> None:
        super().__init__(config)
        self._draining = draining
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a stop signal: start draining, or stop draining if it is the second."""
        if self._draining:
            self._seconds = 0.0
        else:
            self._draining.since = time.monotonic()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop serving. Uvicorn calls this ten times a second."""
        stopping = await super().on_tick(counter)
        if not stopping:
            return False
        since = self._draining.since
        if since is None:
            return True
        remaining = self._seconds - (time.monotonic() - since)
        if counter % 10 == 0 and remaining > 0:
            log.info("draining", seconds_left=round(remaining, 1))
        return remaining <= 0
