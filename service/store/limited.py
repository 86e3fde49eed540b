"""A PostgreSQL connection on which no call waits for ever.

TCP notices a machine that is gone, but not a proxy or a server that acknowledges every packet and never answers.
"""

import threading
import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

Result = TypeVar("Result")


class Losses:
    """Counts the connections to a server that hung. When one does, those that were opened before probably do as well.

    Attributes:
        number: Number of losses. Connections that are lost together count once.
    """

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.Lock()

    def add(self, before: int) -> None:
        """Count the loss of a connection that was opened after `before` losses."""
        with self._lock:
            self.number = max(self.number, before + 1)


class LimitedConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed when a call gets no answer in time. The call then raises `OperationalError`.

    If another connection to the server hung since this one was opened, the next transaction on this one fails at once.
    The pool pings a connection before it is used, and replaces it then.

    psycopg passes every call to the server through `wait`: statements, commits and rollbacks alike. A transaction whose
    commit is cut off may or may not have been stored.

    Attributes:
        seconds: Longest time that one call may take. None: no limit.
    """

    seconds: float | None = None
    _losses: Losses | None = None
    _losses_before = 0

    def limit(self, seconds: float | None, losses: Losses) -> None:
        """Begin to limit calls, and to count the loss of this connection."""
        self.seconds, self._losses, self._losses_before = seconds, losses, losses.number

    def wait(
        self,
        gen: Generator[Any, Any, Result],
        *args: Any,  # noqa: ANN401 - those of psycopg, which depend on its version
        **kwargs: Any,  # noqa: ANN401
    ) -> Result:
        """Run one call to the server, within the limit."""
        if self._is_suspect and self.pgconn.transaction_status == TransactionStatus.IDLE:
            self._give_up(gen)
            raise psycopg.OperationalError("another connection to the server hung")
        if self.seconds is not None:
            gen = self._limit(gen, self.seconds)
        return super().wait(gen, *args, **kwargs)

    def _limit(self, call: Generator[Any, Any, Result], seconds: float) -> Generator[Any, Any, Result]:
        """Pass a call on until it ends or its time is up. psycopg resumes it at least every 0.1 s."""
        deadline = time.monotonic() + seconds
        try:
            state = next(call)
            while True:
                ready = yield state
                state = call.send(ready)  # an answer that has arrived counts
                if time.monotonic() >= deadline:
                    break
        except StopIteration as end:
            result: Result = end.value
            return result
        self._give_up(call)
        raise psycopg.OperationalError(f"the server did not answer within {seconds:g} s")

    @property
    def _is_suspect(self) -> bool:
        return self._losses is not None and self._losses.number > self._losses_before

    def _give_up(self, call: Generator[Any, Any, Result]) -> None:
        """Close this connection before an error is raised, so that everyone sees that it is lost."""
        call.close()
        self.pgconn.finish()
        if self._losses is not None:
            self._losses.add(self._losses_before)
