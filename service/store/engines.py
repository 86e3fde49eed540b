"""Engines of either database: how connections are made, pooled, and given up when nobody answers.

A server that is gone must be noticed within seconds, by whoever waits for it; a connection that was cut is replaced
by the pool before it is handed out.
"""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

if TYPE_CHECKING:  # an extra
    import psycopg

_BUSY_TIMEOUT_MS: Final = 10_000
_CONNECT_SECONDS: Final = 3
_POOL_SECONDS: Final = 5.0  # for a connection that others hold
# The writer's thread, two that replay around an upgrade, the upgrade's own with its lock, the feed's.
_POSTGRES_WRITERS: Final = 6

# Without an answer for six seconds the server is taken for gone.
_TCP: Final = {
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 6000,
}
_SESSION: Final = (
    "SELECT set_config('statement_timeout', '30s', false),"
    " set_config('lock_timeout', '5s', false),"
    # A server process that stops in the middle of a transaction must not keep others from its users for long.
    " set_config('idle_in_transaction_session_timeout', '15s', false),"
    # An answer means that it is on disk, whatever the cluster's default.
    " CASE WHEN current_setting('synchronous_commit') = 'off'"
    " THEN set_config('synchronous_commit', 'on', false) END"
)


def sqlite_engines(path: Path, readers: int) -> tuple[Engine, Engine]:
    """Writer (one connection) and readers of a SQLite file."""
    return (
        _sqlite(path, connections=1, begin="BEGIN IMMEDIATE"),
        _sqlite(path, connections=readers, begin="BEGIN"),
    )


def postgres_engines(url: URL, readers: int) -> tuple[Engine, Engine]:
    """Writers (READ COMMITTED) and readers (one snapshot a transaction) of a PostgreSQL database.

    The look-ups that must have the newest follow the locks in a transaction of their own: hence READ COMMITTED.
    """
    writer = _postgres(url, _POSTGRES_WRITERS, "READ COMMITTED")
    reading = _postgres(url, readers, "REPEATABLE READ").execution_options(postgresql_readonly=True)
    return writer, reading


def _sqlite(path: Path, *, connections: int, begin: str) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        hide_parameters=True,  # texts and user ids must not reach a log by way of an error
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={
            "check_same_thread": False,
            "timeout": _BUSY_TIMEOUT_MS / 1000,
            "cached_statements": 256,
        },
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where SQLAlchemy says so, DDL included
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=FAST"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgres(url: URL, connections: int, isolation: str) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        isolation_level=isolation,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_pre_ping=True,
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "penchant"} | _TCP,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: "psycopg.Connection[tuple[Any, ...]]", _record: object) -> None:
        connection.execute(_SESSION)
        connection.commit()

    return engine
