"""Whether the store answers, for probes that must not wait for it."""

import asyncio
from typing import Final

from sqlalchemy import Connection, text

from penchant.service.store.database import Store
from penchant.service.telemetry.metrics import log_failure

_SECONDS: Final = 1.5


class ReadProbe:
    """Reads from the store for probes. Call it on the event loop.

    At most one read is in flight, however many probes ask, so that they do not occupy the reader threads of a store that
    hangs.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: asyncio.Task[None] | None = None

    async def find_fault(self) -> str | None:
        """Return why the store cannot be read, or None if it answers within 1.5 seconds."""
        if self._read is None or self._read.done():
            self._read = asyncio.create_task(self._store.read(_ping))
            self._read.add_done_callback(_log_failure)
        done, _ = await asyncio.wait({self._read}, timeout=_SECONDS)
        if not done:
            return f"reading takes more than {_SECONDS:g} s"
        return None if self._read.exception() is None else "reading failed"


def _log_failure(read: "asyncio.Task[None]") -> None:
    if not read.cancelled() and (error := read.exception()) is not None:
        log_failure("store_check_failed", error)


def _ping(connection: Connection) -> None:
    connection.execute(text("SELECT 1 FROM installation"))
