"""The peak memory of a process, from Linux's /proc."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RESET_PEAK: Final = "5"
_POLL_SECONDS: Final = 0.005
_KB_PER_MB: Final = 1024


@dataclass
class Peak:
    """The most resident memory that a process had in a period.

    Attributes:
        mb: Megabytes (MiB), known at the end of the period.
    """

    mb: float = 0.0


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """Measure the peak memory of a process until the block ends.

    The kernel's record is reset at the start. Where that is not permitted, the memory is polled instead.
    """
    peak = Peak()
    try:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, "ascii")
    except PermissionError:
        with _polling(pid, peak):
            yield peak
    else:
        yield peak
        peak.mb = _read_mb(pid, "VmHWM")


@contextmanager
def _polling(pid: int, peak: Peak) -> Iterator[None]:
    ended = threading.Event()

    def poll() -> None:
        while True:
            peak.mb = max(peak.mb, _read_mb(pid, "VmRSS"))
            if ended.wait(_POLL_SECONDS):
                return

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _read_mb(pid: int, name: str) -> float:
    """Return a size from the status of a process, and 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except FileNotFoundError:
        return 0.0
    return next((int(line.split()[1]) / _KB_PER_MB for line in lines if line.startswith(f"{name}:")), 0.0)
