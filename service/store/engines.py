"""The connections to the database: a SQLite file, or a PostgreSQL server that answers within a time limit."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.pool import QueuePool

if TYPE_CHECKING:  # an extra
    from penchant.service.store.limited import LimitedConnection, Losses

_PATIENT_BUSY_SECONDS: Final = 3600.0  # longest wait of a patient command for a lock on a SQLite file
_CONNECT_SECONDS: Final = 3
_POOL_SECONDS: Final = 5.0  # longest wait for a free connection of the pool
# One for the writer's thread, two for replays around an upgrade, two for the upgrade and its lock, one for the feed.
_POSTGRES_WRITERS: Final = 6

# A PostgreSQL server whose machine does not acknowledge for six seconds counts as gone.
_TCP: Final = {
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 6000,
}
# A commit returns only after it is on disk, whatever the cluster's default.
_DURABLE: Final = (
    "SELECT CASE WHEN current_setting('synchronous_commit') = 'off'"
    " THEN set_config('synchronous_commit', 'on', false) END"
)
_LOCK_SECONDS: Final = 5.0
# A reader's transaction may be idle for so many time limits, because it holds no locks.
_READER_IDLES: Final = 3.0
_LIMITS: Final = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


def sqlite_engines(path: Path, readers: int, seconds: float | None) -> tuple[Engine, Engine]:
    """Return the engines that write (one connection) and read a SQLite file.

    Args:
        path: The file.
        readers: Number of connections that read.
        seconds: Longest wait for another process that writes. None: as long as it takes.
    """
    seconds = _PATIENT_BUSY_SECONDS if seconds is None else seconds
    return (
        _sqlite(path, connections=1, begin="BEGIN IMMEDIATE", seconds=seconds),
        _sqlite(path, connections=readers, begin="BEGIN", seconds=seconds),
    )


def postgres_engines(url: URL, readers: int, seconds: float | None) -> tuple[Engine, Engine]:
    """Return the engines that write and read a PostgreSQL database.

    Writers are READ COMMITTED, because queries that follow a lock in the same transaction must see the newest rows.
    Each transaction of a reader is one snapshot.

    Args:
        url: Address of the database.
        readers: Number of connections that read.
        seconds: Longest time that one call may take. The server ends a statement or a wait for a lock a little earlier,
            so that the connection survives it. None: as long as it takes.

    Raises:
        ImportError: If the driver is not installed.
    """
    from penchant.service.store.limited import Losses  # noqa: PLC0415 - an extra

    losses = Losses()
    # When a connection of a writer hangs, the server must drop its locks before the writer tries again on another one.
    writer = _postgres(url, losses, _POSTGRES_WRITERS, "READ COMMITTED", seconds, idle_seconds=seconds)
    reader = _postgres(
        url, losses, readers, "REPEATABLE READ", seconds, idle_seconds=seconds and _READER_IDLES * seconds
    )
    return writer, reader.execution_options(postgresql_readonly=True)


@contextmanager
def without_time_limits(connection: Connection) -> Iterator[None]:
    """Lift all time limits, those of waits for locks included, from the transaction that runs in this block."""
    if connection.dialect.name != "postgresql":
        yield
        return
    limited: LimitedConnection = connection.connection.driver_connection  # type: ignore[assignment]
    seconds, limited.seconds = limited.seconds, None
    try:
        for limit in _LIMITS:
            connection.execute(text(f"SET LOCAL {limit} = 0"))
        yield
    finally:
        limited.seconds = seconds


def _sqlite(path: Path, *, connections: int, begin: str, seconds: float) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        hide_parameters=True,  # keeps texts and user ids in an error out of the logs
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={
            "check_same_thread": False,
            "timeout": seconds,
            "cached_statements": 256,
        },
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins all transactions, those with DDL included
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=FAST"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgres(
    url: URL,
    losses: "Losses",
    connections: int,
    isolation: str,
    seconds: float | None,
    *,
    idle_seconds: float | None,
) -> Engine:
    from penchant.service.store.limited import LimitedConnection  # noqa: PLC0415 - an extra

    # The server ends a statement or a wait for a lock a little before the connection would be given up. 0: no limit.
    limits = (0.8 * (seconds or 0.0), min(_LOCK_SECONDS, 0.5 * (seconds or 0.0)), idle_seconds or 0.0)
    engine = create_engine(
        url,
        hide_parameters=True,
        isolation_level=isolation,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_use_lifo=True,  # a connection keeps a buffer of the size of the largest row that it has read
        pool_pre_ping=True,  # replaces a broken connection before it is used
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "penchant"} | _TCP,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(
        _dialect: object, _record: object, arguments: Sequence[Any], options: dict[str, Any]
    ) -> LimitedConnection:
        connection = LimitedConnection.connect(*arguments, **options)
        connection.limit(seconds, losses)
        return connection

    @event.listens_for(engine, "connect")
    def _configure(connection: LimitedConnection, _record: object) -> None:
        connection.execute(_DURABLE)
        for name, value in zip(_LIMITS, limits, strict=True):
            connection.execute("SELECT set_config(%s, %s, false)", (name, f"{value * 1000:.0f}ms"))
        connection.commit()

    return engine
