"""The database behind the store, a SQLite file of one server or a PostgreSQL database that several servers share."""

import asyncio
import fcntl
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from penchant.service.settings import Settings
from penchant.service.store.statements import insert_new, insert_or_replace
from penchant.service.store.tables import installation

if TYPE_CHECKING:  # an extra
    import psycopg

P = ParamSpec("P")
Answer = TypeVar("Answer")

FILE_NAME: Final = "penchant.sqlite3"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x70656E_6D69_6772  # PostgreSQL advisory lock held while migrations run

_BUSY_TIMEOUT_MS: Final = 10_000
_CONNECT_SECONDS: Final = 3
_POOL_SECONDS: Final = 5.0  # longest wait for a free connection of the pool
# Connections that read for threads other than the readers: replays of long logs, around an upgrade of two models, the
# upgrade itself, the feed, and an export.
_SLOW_READERS: Final = 8
# One for the writer's thread, two for replays around an upgrade, two for the upgrade and its lock, one for the feed.
_POSTGRES_WRITERS: Final = 6

# A PostgreSQL server that does not answer for six seconds counts as gone.
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
    # A server process that stops in the middle of a transaction must not block other servers for long.
    " set_config('idle_in_transaction_session_timeout', '15s', false),"
    # A commit returns only after it is on disk, whatever the cluster's default.
    " CASE WHEN current_setting('synchronous_commit') = 'off'"
    " THEN set_config('synchronous_commit', 'on', false) END"
)

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

    Attributes:
        shared: Whether several servers may use the store, so that another server may have changed anything that this
            one holds in memory.
        name: File or address of the database, without a password.
        path: SQLite file. None for PostgreSQL.
        clock: Function that returns the time in Unix seconds.

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
    ) -> None:
        self.clock = clock
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="penchant-reader")
        self._lock: IO[bytes] | None = None
        self.path: Path | None = None
        self.shared = isinstance(place, URL)
        if isinstance(place, URL):
            self.name = place.render_as_string(hide_password=True)
            try:
                self._writer, self._readers = _postgres_engines(place, readers + _SLOW_READERS)
            except ImportError as error:
                raise StoreError("PostgreSQL needs its driver: pip install 'penchant[postgres]'.") from error
        else:
            self.path = place / FILE_NAME
            self.name = str(self.path)
            self._lock = _open_folder(place, exclusive=exclusive)
            self._writer, self._readers = _sqlite_engines(self.path, readers + _SLOW_READERS)
        self._lookups = self._readers.execution_options(
            **({"isolation_level": "AUTOCOMMIT"} if self.shared else {})
        )
        try:
            self._migrate()
        except Exception as error:
            self.close()
            if isinstance(error, StoreError):
                raise
            reason = getattr(error, "orig", None) or error
            raise StoreError(f"The database {self.name} cannot be opened: {reason}") from error

    @classmethod
    def open(
        cls, settings: Settings, *, exclusive: bool = True, clock: Callable[[], float] = time.time
    ) -> "Store":
        """Open the store that the settings name.

        Raises:
            StoreError: If it cannot be used.
        """
        place = store_place(settings)
        return cls(place, exclusive=exclusive, readers=settings.store_readers, clock=clock)

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

    def close(self) -> None:
        """End the reader threads, close all connections and release the folder."""
        self._threads.shutdown()
        self._readers.dispose()
        self._writer.dispose()
        if self._lock is not None:
            self._lock.close()

    def _migrate(self) -> None:
        with self.reading() as connection:  # does not wait for a writer
            if is_up_to_date(connection):
                return
        with self._writer.connect() as connection:
            if self.path is None or self._lock is not None:
                migrate(connection)
                return
            # A command may change the tables only while no server works with them.
            with _lock(self.path.parent / "lock"):
                migrate(connection)


def store_place(settings: Settings) -> Path | URL:
    """Return the data folder or the database address that the settings name."""
    if settings.store_url is None:
        return settings.data_dir
    return make_url(settings.store_url.get_secret_value()).set(drivername="postgresql+psycopg")


def store_name(settings: Settings) -> str:
    """Return the name of the store for logs, without a password."""
    place = store_place(settings)
    return str(place.resolve() / FILE_NAME) if isinstance(place, Path) else place.render_as_string()


def is_up_to_date(connection: Connection) -> bool:
    """Return whether the tables have this version's revision."""
    newest = ScriptDirectory.from_config(_alembic_config(connection)).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == newest


def migrate(connection: Connection) -> None:
    """Migrate the tables to the newest revision, all or nothing. Concurrent calls wait for each other."""
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        if not is_up_to_date(connection):
            command.upgrade(_alembic_config(connection), "head")


def record_write(connection: Connection, now: float) -> None:
    """Write one row unconditionally, which shows whether the disk accepts writes."""
    row = {"tenant": "", "name": "last_written", "value": str(now).encode()}
    insert_or_replace(connection, installation, [row])


def is_contention(error: BaseException) -> bool:
    """Return whether another transaction was in the way. Nothing was stored, and a retry sees the other's rows."""
    if isinstance(error, IntegrityError):
        return True
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONTENDED


def is_lost_connection(error: BaseException) -> bool:
    """Return whether the connection broke in use. A commit under way may or may not have been stored."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def is_unreachable(error: BaseException) -> bool:
    """Return whether no connection can be had, so that other work would fail as well."""
    if isinstance(error, PoolTimeoutError):
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


def _sqlite_engines(path: Path, readers: int) -> tuple[Engine, Engine]:
    """Return the engines that write (one connection) and read a SQLite file."""
    return (
        _sqlite(path, connections=1, begin="BEGIN IMMEDIATE"),
        _sqlite(path, connections=readers, begin="BEGIN"),
    )


def _postgres_engines(url: URL, readers: int) -> tuple[Engine, Engine]:
    """Return the engines that write and read a PostgreSQL database.

    Writers are READ COMMITTED, because queries that follow a lock in the same transaction must see the newest rows.
    Each transaction of a reader is one snapshot.
    """
    writer = _postgres(url, _POSTGRES_WRITERS, "READ COMMITTED")
    reader = _postgres(url, readers, "REPEATABLE READ").execution_options(postgresql_readonly=True)
    return writer, reader


def _sqlite(path: Path, *, connections: int, begin: str) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        hide_parameters=True,  # keeps texts and user ids in an error out of the logs
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
        connection.isolation_level = None  # SQLAlchemy begins all transactions, those with DDL included
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
        pool_pre_ping=True,  # replaces a broken connection before it is used
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "penchant"} | _TCP,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: "psycopg.Connection[tuple[Any, ...]]", _record: object) -> None:
        connection.execute(_SESSION)
        connection.commit()

    return engine
