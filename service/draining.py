"""A server that says that it is about to stop before it stops, so that a load balancer sends requests elsewhere.

signal → /readyz fails, answers close their connections → `drain_seconds` → no new connections → answers given → end
"""

import time
from dataclasses import dataclass
from types import FrameType

import uvicorn

from penchant.service.telemetry.metrics import log


@dataclass
class Draining:
    """Whether the server is about to stop: set by its signal handler, read by whoever answers.

    Attributes:
        since: Of the monotonic clock, in seconds; None while it serves.
    """

    since: float | None = None

    def __bool__(self) -> bool:
        return self.since is not None


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, which goes on serving for a while after it is told to stop.

    Args:
        config: As uvicorn's.
        draining: Set when it is told to stop.
        seconds: How long it then goes on; a second signal ends that at once.
    """

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float) -> None:
        super().__init__(config)
        self._draining = draining
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called with each signal that tells the server to stop."""
        if self._draining:
            self._seconds = 0.0
        else:
            self._draining.since = time.monotonic()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the serving."""
        stopping = await super().on_tick(counter)
        if not stopping:
            return False
        since = self._draining.since
        if since is None:
            return True
        left = self._seconds - (time.monotonic() - since)
        if counter % 10 == 0 and left > 0:
            log.info("draining", seconds_left=round(left, 1))
        return left <= 0
