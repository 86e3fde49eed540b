"""One SQLite file: opened by one process, migrated, written on one connection, read on others."""

import fcntl
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import QueuePool

from penchant.service.store.tables import installation

FILE_NAME: Final = "penchant.sqlite3"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS: Final = 10_000
_READERS: Final = 4


class StoreError(RuntimeError):
    """The data folder cannot be used."""


class Database:
    """The store of one server process.

    Args:
        folder: Data folder; created where it is missing.

    Raises:
        StoreError: The folder cannot be written, or another server uses it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "lock")
        except OSError as error:
            raise StoreError(f"The data folder {folder} cannot be used: {error.strerror or error}") from error
        try:
            self._writer = _engine(self.path, readers=1, begin="BEGIN IMMEDIATE")
            self._readers = _engine(self.path, readers=_READERS, begin="BEGIN")
            with self._writer.connect() as connection:
                migrate(connection)
        except Exception as error:
            self._lock.close()
            raise StoreError(f"The database {self.path} cannot be opened: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, durable when the block ends. Only the writer's thread may call it."""
        with self._writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view; never waits for the writer."""
        with self._readers.connect() as connection:
            yield connection

    def salt(self) -> bytes:
        """Random bytes of this installation, made once: what hashed user ids in its logs are keyed with."""
        with self.writing() as connection:
            fresh = {"tenant": "", "name": "log_salt", "value": secrets.token_bytes(32)}
            connection.execute(insert(installation).on_conflict_do_nothing(), fresh)
            value = connection.scalar(select(installation.c.value).where(installation.c.name == "log_salt"))
        if not isinstance(value, bytes):
            raise StoreError("The database lost its salt.")
        return value

    def close(self) -> None:
        """Closes all connections and gives the folder free."""
        self._readers.dispose()
        self._writer.dispose()
        self._lock.close()


def migrate(connection: Connection) -> None:
    """Brings the tables up to the newest revision."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    newest = ScriptDirectory.from_config(config).get_current_head()
    if MigrationContext.configure(connection).get_current_revision() == newest:
        return
    connection.rollback()
    command.upgrade(config, "head")


def _lock(path: Path) -> IO[bytes]:
    """Holds `path` for this process, until it ends in whatever way."""
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise StoreError(f"Another server uses the data folder {path.parent}.") from None
    return handle


def _engine(path: Path, *, readers: int, begin: str) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        hide_parameters=True,  # texts and user ids must not reach a log by way of an error
        poolclass=QueuePool,
        pool_size=readers,
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
