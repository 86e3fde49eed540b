"""A PostgreSQL connection on which no call waits for ever.

TCP notices a machine that is gone, but not a proxy or a server that acknowledges every packet and never answers.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

Result = TypeVar("Result")


class LimitedConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed when a call gets no answer in time. The call then raises `OperationalError`.

    psycopg passes every call to the server through `wait`: statements, commits and rollbacks alike. A transaction whose
    commit is cut off may or may not have been stored.

    Attributes:
        seconds: Longest time that one call may take. None: no limit.
    """

    seconds: float | None = None

    def wait(
        self,
        gen: Generator[Any, Any, Result],
        *args: Any,  # noqa: ANN401 - those of psycopg, which depend on its version
        **kwargs: Any,  # noqa: ANN401
    ) -> Result:
        """Run one call to the server, within the limit."""
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
        call.close()
        self.pgconn.finish()  # before the error is raised, so that everyone sees that the connection is lost
        raise psycopg.OperationalError(f"the server did not answer within {seconds:g} s")
