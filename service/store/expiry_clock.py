"""The clock by which data expires. It does not follow a jump of the system's clock before that has lasted for a while.

The store records the time of the last removal. From then on a process counts the seconds of its monotonic clock, which
cannot be set. If the system's clock differs from this by more than the grace period, data expires by the earlier of the
two. The system's clock is believed again as soon as they agree, or after servers have run for the grace period with it.
That is also what happens after a long stop, which cannot be told from a jump.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, select

from penchant.service.store.statements import insert_or_replace
from penchant.service.store.tables import installation

LAST_WRITTEN: Final = "last_written"
DISPUTED_SINCE: Final = "clock_disputed_since"


@dataclass(frozen=True)
class ClockRecord:
    """What a store records about time.

    Attributes:
        last_written: Time of the last removal of expired rows, in Unix seconds. None in a new store.
        disputed_since: Value of `last_written` when the system's clock began to differ. None while it agrees.
    """

    last_written: float | None = None
    disputed_since: float | None = None


def find_clock_record(connection: Connection) -> ClockRecord:
    """Return what the store records about time."""
    c = installation.c
    names = (LAST_WRITTEN, DISPUTED_SINCE)
    statement = select(c.name, c.value).where(c.tenant == "", c.name.in_(names))
    found = {row.name: float(row.value) for row in connection.execute(statement)}
    return ClockRecord(*(found.get(name) for name in names))


@dataclass(frozen=True)
class _Anchor:
    """The time that was believed at some moment.

    Attributes:
        time: Unix seconds.
        monotonic: The same moment on the monotonic clock.
        recorded: `last_written` as the store held it then. Another value means that another server has recorded since.
    """

    time: float
    monotonic: float
    recorded: float | None


class ExpiryClock:
    """The clock by which data expires. Any thread may use it.

    Args:
        clock: Function that returns the system's time in Unix seconds.
        grace_seconds: Largest difference that is believed at once, and how long servers must run before a larger one is.
        monotonic: Function that returns seconds which only ever advance.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        grace_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._anchor: _Anchor | None = None
        self._disputed_since: float | None = None
        self._difference = 0.0

    @property
    def difference(self) -> float:
        """Seconds by which the system's clock is ahead of the believed time. 0 while they agree."""
        return self._difference

    def now(self, connection: Connection) -> float:
        """Return the time up to which data may have expired, in Unix seconds.

        Args:
            connection: Connection that reads the store.
        """
        record = find_clock_record(connection)
        with self._lock:
            wall = self._clock()
            believed, since = self._believe(wall, record), record.disputed_since
            if abs(wall - believed) > self._grace_seconds:
                since = believed if since is None else min(since, believed)
                if believed - since >= self._grace_seconds:  # servers have run with this clock for so long
                    believed, since = wall, None
            else:
                believed, since = wall, None
            self._anchor = _Anchor(believed, self._monotonic(), record.last_written)
            self._disputed_since, self._difference = since, wall - believed
            return min(wall, believed)

    def record(self, connection: Connection) -> None:
        """Record the time that the last `now` found. This writes a row always, which shows that writing works."""
        with self._lock:
            if self._anchor is None:
                raise RuntimeError("The clock has not been read yet.")
            self._anchor = _Anchor(self._anchor.time, self._anchor.monotonic, self._anchor.time)
            values = {LAST_WRITTEN: self._anchor.time}
            if self._disputed_since is not None:
                values[DISPUTED_SINCE] = self._disputed_since
        rows = [{"tenant": "", "name": name, "value": str(value).encode()} for name, value in values.items()]
        insert_or_replace(connection, installation, rows)
        if DISPUTED_SINCE not in values:
            c = installation.c
            connection.execute(delete(installation).where(c.tenant == "", c.name == DISPUTED_SINCE))

    def limit(self, moment: float) -> float:
        """Return `moment`, a time of the system's clock, or the believed time if it is earlier and far away."""
        with self._lock:
            if self._anchor is None:
                return moment
            believed = self._anchor.time + self._monotonic() - self._anchor.monotonic
            return moment if abs(moment - believed) <= self._grace_seconds else min(moment, believed)

    def _believe(self, wall: float, record: ClockRecord) -> float:
        """Return the time that follows from the record and from the monotonic clock."""
        anchor = self._anchor
        if anchor is not None and anchor.recorded == record.last_written:
            return anchor.time + self._monotonic() - anchor.monotonic
        return wall if record.last_written is None else record.last_written
