"""The database behind the store, a SQLite file of one server or a PostgreSQL database that several servers share."""

import asyncio
import fcntl
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Concatenate, Final, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from penchant.service.settings import Settings
from penchant.service.store.engines import postgres_engines, sqlite_engines, without_time_limits
from penchant.service.store.expiry_clock import ExpiryClock
from penchant.service.store.statements import insert_new
from penchant.service.store.tables import installation, metadata

P = ParamSpec("P")
Answer = TypeVar("Answer")

FILE_NAME: Final = "penchant.sqlite3"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x70656E_6D69_6772  # PostgreSQL advisory lock held while migrations run

# Connections that read for threads other than the readers: replays of long logs, around an upgrade of two models, the
# upgrade itself, the feed, and an export.
_SLOW_READERS: Final = 8
_HOUR: Final = 3600.0

# SQLSTATE: serialization failure, deadlock, lock not available, out of shared memory (too many locks at once).
_CONTENDED: Final = frozenset({"40001", "40P01", "55P03", "53200"})


class StoreError(RuntimeError):
    """The store cannot be used, for a reason that its operator can correct."""


class Store:
    """The store: a database, the threads that read it for the event loop, and the clock that dates its rows.

    Coroutines call `read`, `read_snapshot` and `run`. Threads that may block, and commands, use the context managers
    `reading` and `writing`.

    Args:
        place: Data folder of a SQLite file, created if it is missing, or address of a PostgreSQL database.
        exclusive: Whether this process is a server. A SQLite file has at most one server. Commands open the file
            without the server's lock.
        readers: Number of threads, and of connections, that read.
        clock: Function that returns the time in Unix seconds.
        time_limit: Seconds after which a call to PostgreSQL, or a wait for another process that writes to SQLite, fails.
            None: no limit, for commands that may take long.
        grace_hours: Difference of the clock from what the store records that is believed at once.

    Attributes:
        shared: Whether several servers may use the store, so that another server may have changed anything that this
            one holds in memory.
        name: File or address of the database, without a password.
        path: SQLite file. None for PostgreSQL.
        clock: Function that returns the time in Unix seconds.
        expiry_clock: Clock by which data expires, which does not follow jumps.

    Raises:
        StoreError: If the database cannot be reached or written, or if another server uses the folder.
    """

    def __init__(
        self,
        place: Path | URL,
        *,
        exclusive: bool = True,
        readers: int = 4,
        clock: Callable[[], float] = time.time,
        time_limit: float | None = 10.0,
        grace_hours: float = 24.0,
    ) -> None:
        self.clock = clock
        self.expiry_clock = ExpiryClock(clock, grace_hours * _HOUR)
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="penchant-reader")
        self._lock: IO[bytes] | None = None
        self.path: Path | None = None
        self.shared = isinstance(place, URL)
        if isinstance(place, URL):
            self.name = place.render_as_string(hide_password=True)
            try:
                self._writer, self._readers = postgres_engines(place, readers + _SLOW_READERS, time_limit)
            except ImportError as error:
                raise StoreError("PostgreSQL needs its driver: pip install 'penchant[postgres]'.") from error
        else:
            self.path = place / FILE_NAME
            self.name = str(self.path)
            self._lock = _open_folder(place, exclusive=exclusive)
            self._writer, self._readers = sqlite_engines(self.path, readers + _SLOW_READERS, time_limit)
        self._lookups = self._readers.execution_options(
            **({"isolation_level": "AUTOCOMMIT"} if self.shared else {})
        )
        try:
            self._migrate()
        except Exception as error:
            self.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"The database {self.name} cannot be opened: {find_reason(error)}") from error

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        exclusive: bool = True,
        patient: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> "Store":
        """Open the store that the settings name.

        Args:
            settings: Settings, with the time limit.
            exclusive: Whether this process is a server.
            patient: Whether to lift the time limit, for commands that may take long.
            clock: Function that returns the time in Unix seconds.

        Raises:
            StoreError: If it cannot be used.
        """
        return cls(
            store_place(settings),
            exclusive=exclusive,
            readers=settings.store_readers,
            clock=clock,
            time_limit=None if patient else settings.store_timeout_seconds,
            grace_hours=settings.expiry_grace_hours,
        )

    async def read(
        self, query: Callable[Concatenate[Connection, P], Answer], *args: P.args, **kwargs: P.kwargs
    ) -> Answer:
        """Return `query(connection, *args, **kwargs)`, called in a reader thread without a transaction.

        Each statement sees the newest commit. On PostgreSQL this saves the two round trips of a transaction.

        Raises:
            SQLAlchemyError: If the database cannot be read.
        """
        return await self.run(_query, self._lookups, lambda connection: query(connection, *args, **kwargs))

    async def read_snapshot(
        self, query: Callable[Concatenate[Connection, P], Answer], *args: P.args, **kwargs: P.kwargs
    ) -> Answer:
        """Return `query(connection, *args, **kwargs)`, called in a reader thread on one consistent snapshot.

        Raises:
            SQLAlchemyError: If the database cannot be read.
        """
        return await self.run(_query, self._readers, lambda connection: query(connection, *args, **kwargs))

    async def run(self, function: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
        """Return `function(*args, **kwargs)`, called in a reader thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a write transaction, which is durable when the block ends. SQLite runs one at a time."""
        with self._writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection that reads one consistent snapshot and never waits for writers."""
        with self._readers.connect() as connection:
            yield connection

    @contextmanager
    def holding(self) -> Iterator[Connection]:
        """Open a connection for PostgreSQL's session locks, which outlast transactions. Each statement commits."""
        with self._writer.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def salt(self) -> bytes:
        """Return the random bytes of this installation that key the hashes of user ids in its logs.

        The first call creates them.
        """
        query = select(installation.c.value).where(installation.c.name == "log_salt")
        with self._lookups.connect() as connection:
            value = connection.scalar(query)
        if value is None:
            row = {"tenant": "", "name": "log_salt", "value": secrets.token_bytes(32)}
            with self.writing() as connection:
                insert_new(connection, installation, [row])
                value = connection.scalar(query)
        if not isinstance(value, bytes):
            raise StoreError("The database has lost its salt.")
        return value

    def close(self, seconds: float | None = None) -> bool:
        """End the reader threads, close all connections and release the folder.

        Args:
            seconds: Longest wait for threads that are reading. None: as long as it takes.

        Returns:
            Whether all threads have ended.
        """
        ending = threading.Thread(target=self._threads.shutdown, name="penchant-close", daemon=True)
        ending.start()
        ending.join(seconds)
        self._readers.dispose()
        self._writer.dispose()
        if self._lock is not None:
            self._lock.close()
        return not ending.is_alive()

    def _migrate(self) -> None:
        with self.reading() as connection:  # does not wait for a writer
            if is_up_to_date(connection):
                return
            if fault := find_table_fault(connection):
                raise StoreError(f"The database {self.name} cannot be opened: {fault}")
        with self._writer.connect() as connection:
            if self.path is None or self._lock is not None:
                migrate(connection)
                return
            # A command may change the tables only while no server works with them.
            with _lock(self.path.parent / "lock"):
                migrate(connection)


def store_place(settings: Settings) -> Path | URL:
    """Return the data folder or the database address that the settings name.

    Raises:
        StoreError: If the address cannot be read.
    """
    if settings.store_url is None:
        return settings.data_dir
    try:
        return make_url(settings.store_url.get_secret_value()).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):  # its message may contain the password
        raise StoreError("PENCHANT_STORE_URL is not an address: postgresql://user:password@host/db") from None


def store_name(settings: Settings) -> str:
    """Return the name of the store for logs, without a password."""
    place = store_place(settings)
    return str(place.resolve() / FILE_NAME) if isinstance(place, Path) else place.render_as_string()


def is_up_to_date(connection: Connection) -> bool:
    """Return whether the tables have this version's revision."""
    newest = ScriptDirectory.from_config(_alembic_config(connection)).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == newest


def find_table_fault(connection: Connection) -> str | None:
    """Return why this version cannot use the tables of a database, as they are or migrated, or None."""
    scripts = ScriptDirectory.from_config(_alembic_config(connection))
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        ours = sorted(set(inspect(connection).get_table_names()) & metadata.tables.keys())
        return f"it holds tables ({ours[0]}, …) but not their revision" if ours else None
    if revision not in {script.revision for script in scripts.walk_revisions()}:
        return (
            f"its tables ({revision}) are unknown to this version of penchant, because a newer one wrote them"
        )
    return None


def find_reason(error: BaseException) -> str:
    """Return the reason of a failure in one line, without the statement that failed."""
    reason = str(getattr(error, "orig", None) or error).strip()
    return reason.splitlines()[0] if reason else type(error).__name__


def migrate(connection: Connection) -> None:
    """Migrate the tables to the newest revision, all or nothing. Concurrent calls wait for each other."""
    with connection.begin(), without_time_limits(connection):
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        if not is_up_to_date(connection):
            command.upgrade(_alembic_config(connection), "head")


def is_contention(error: BaseException) -> bool:
    """Return whether another transaction was in the way. Nothing was stored, and a retry sees the other's rows."""
    if isinstance(error, IntegrityError):
        return True
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONTENDED


def is_lost_connection(error: BaseException) -> bool:
    """Return whether the connection broke in use. A commit under way may or may not have been stored."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def is_unreachable(error: BaseException) -> bool:
    """Return whether the store cannot be used at all for now, so that other work would fail as well."""
    if isinstance(error, PoolTimeoutError):
        return True
    # Another process has locked the SQLite file for longer than the time limit.
    if getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return True
    # PostgreSQL's own errors have a SQLSTATE. Without one no server raised it; 57P means that it is shutting down.
    state = getattr(getattr(error, "orig", None), "sqlstate", "")
    return isinstance(error, OperationalError | InterfaceError) and (state is None or state.startswith("57P"))


def _query(engine: Engine, query: Callable[[Connection], Answer]) -> Answer:
    with engine.connect() as connection:
        return query(connection)


def _alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _open_folder(folder: Path, *, exclusive: bool) -> IO[bytes] | None:
    """Create the folder, and lock it for a server."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _lock(folder / "lock") if exclusive else None
    except OSError as error:
        raise StoreError(f"The data folder {folder} cannot be used: {error.strerror or error}") from error


def _lock(path: Path) -> IO[bytes]:
    """Lock `path` until the handle is closed or the process ends."""
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise StoreError(f"Another server uses the data folder {path.parent}.") from None
    return handle
