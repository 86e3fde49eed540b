"""What a failure of the store means: try again, or come back later; and whether anything may have been stored."""

from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

# SQLSTATE: serialization failure, deadlock, lock not available, out of shared memory (too many locks at once).
_CONTENDED: Final = frozenset({"40001", "40P01", "55P03", "53200"})


def is_contention(error: BaseException) -> bool:
    """Whether another transaction was in the way: nothing was stored, and a second try sees what the other did."""
    if isinstance(error, IntegrityError):
        return True
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONTENDED


def is_lost_connection(error: BaseException) -> bool:
    """Whether the connection broke while it was used: what was being committed may be stored, or not."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def is_unreachable(error: BaseException) -> bool:
    """Whether there is no connection to be had: nothing else will fare better now."""
    if isinstance(error, PoolTimeoutError):
        return True
    # An error of PostgreSQL's own bears its SQLSTATE. Without one, nobody was there to raise it; 57P: it shuts down.
    state = getattr(getattr(error, "orig", None), "sqlstate", "")
    return isinstance(error, OperationalError | InterfaceError) and (state is None or state.startswith("57P"))
