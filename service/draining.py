"""A server that announces its stop in advance, so that a load balancer sends requests to other servers.

signal → /readyz fails, answers close their connections → `drain_seconds` pass → no new connections → last answers → exit

Should anything not end, a watchdog ends the process. Everything that was acknowledged is on disk already.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

import uvicorn

from penchant.service.telemetry.metrics import log

_MARGIN_SECONDS: Final = 5.0  # for writing what is pending, after the last answers
_LOG_SECONDS: Final = 1.0  # standard error may be blocked, too
_EXIT_STATUS: Final = 1


@dataclass
class Draining:
    """Whether the server is about to stop. The signal handler sets it, and the HTTP interface reads it.

    Attributes:
        since: Time of the stop signal on the monotonic clock, in seconds. None before the signal.
        ends_at: Time on the monotonic clock at which the process ends at the latest. Set before `begun`.
        begun: Event of the stop signal.
    """

    since: float | None = None
    ends_at: float = 0.0
    begun: threading.Event = field(default_factory=threading.Event)

    def __bool__(self) -> bool:
        return self.since is not None

    @property
    def seconds_left(self) -> float | None:
        """Seconds that remain for stopping the server's parts. None before the signal."""
        return None if self.since is None else max(0.0, self.ends_at - _LOG_SECONDS - time.monotonic())


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, extended to keep serving for a while after a stop signal, and to end in time.

    Args:
        config: Uvicorn's configuration, with the time limit for the last answers.
        draining: Set at the first stop signal.
        seconds: Time to keep serving after the signal. A second signal ends it immediately.
    """

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float) -> None:
        super().__init__(config)
        self._draining = draining
        self._seconds = seconds
        self._stop_seconds = (config.timeout_graceful_shutdown or 0) + _MARGIN_SECONDS
        watch = threading.Thread(target=_end_in_time, args=(draining,), name="penchant-watchdog", daemon=True)
        watch.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a stop signal: start draining, or stop draining if it is the second."""
        now = time.monotonic()
        if self._draining:
            self._seconds = 0.0
            self._draining.ends_at = min(self._draining.ends_at, now + self._stop_seconds)
        else:
            self._draining.ends_at = now + self._seconds + self._stop_seconds
            self._draining.since = now
            self._draining.begun.set()
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


def _end_in_time(draining: Draining) -> None:
    """Wait for the stop signal and then for the end of its time limit, log what has not stopped, and end the process."""
    draining.begun.wait()
    while (left := draining.ends_at - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))  # a second signal moves the end forward
    report = threading.Thread(target=_report_threads, daemon=True)
    report.start()
    report.join(_LOG_SECONDS)
    os._exit(_EXIT_STATUS)


def _report_threads() -> None:
    frames = sys._current_frames()
    threads = {
        thread.name: f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and (frame := frames.get(thread.ident or 0)) is not None
    }
    log.error("stop_timed_out", threads=threads)
