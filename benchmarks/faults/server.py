"""The service as a process of its own, with an encoder without weights and with faults for this benchmark only.

Environment variables switch on the faults:

- `FAULTS_MAX_PAGES`: the maximum size of the SQLite file in pages. It simulates a full disk if mounting is not allowed.
- `FAULTS_CLOCK_JUMPS`: the seconds between two jumps of the server's clock, by hours and by a year, in both directions.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Engine, event

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.claims import StartError
from penchant.service.server import run
from penchant.service.settings import Settings

_HOUR: Final = 3600.0
OFFSETS: Final = (0.0, 5 * _HOUR, -2 * _HOUR, 0.0, 365 * 24 * _HOUR, -400 * 24 * _HOUR, 1.5)
"""Offsets of a jumping clock from the true time in seconds, in the order of its jumps."""


def jumping(every: float) -> Callable[[], float]:
    """Return a clock that jumps every `every` seconds."""
    return lambda: time.time() + OFFSETS[int(time.monotonic() / every) % len(OFFSETS)]


def _limit(pages: int) -> None:
    @event.listens_for(Engine, "connect")
    def _configure(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's connection
        connection.execute(f"PRAGMA max_page_count = {pages}")


def main() -> None:
    """Serve until asked to stop, or killed."""
    if pages := os.environ.get("FAULTS_MAX_PAGES"):
        _limit(int(pages))
    every = os.environ.get("FAULTS_CLOCK_JUMPS")
    extractor = FeatureExtractor(HashingEncoder())
    try:
        run(
            Settings(),
            bundle=tiny_bundle(extractor),
            extractor=extractor,
            clock=jumping(float(every)) if every else time.time,
        )
    except StartError as error:
        sys.exit(f"penchant: {error}")


if __name__ == "__main__":
    main()
