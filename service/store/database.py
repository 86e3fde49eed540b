"""Where everything durable is: a SQLite file of one server, or a PostgreSQL database that several share."""

import asyncio
import fcntl
import secrets
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
from sqlalchemy import URL, Connection, make_url, select, text

from penchant.service.settings import Settings
from penchant.service.store.engines import postgres_engines, sqlite_engines
from penchant.service.store.statements import insert_new, insert_or_replace
from penchant.service.store.tables import installation

FILE_NAME: Final = "penchant.sqlite3"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = (
    0x70656E_6D69_6772  # of PostgreSQL's advisory locks, the one that migrations run under
)


P = ParamSpec("P")
Answer = TypeVar("Answer")


class StoreError(RuntimeError):
    """The store cannot be used, for a reason that its operator can change."""


class Store:
    """The store: a database, the threads that read it for the event loop, and the clock that dates its rows.

    Coroutines call `read`, `read_snapshot` and `run`. Threads that may block, and commands, use the context managers
    `reading` and `writing`.

    Args:
        place: Data folder of a SQLite file, created if it is missing, or address of a PostgreSQL database.
        exclusive: Whether this process is a server. A SQLite file has at most one server; commands open it without
            a lock.
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
                self._writer, self._readers = postgres_engines(place, readers)
            except ImportError as error:
                raise StoreError("PostgreSQL needs its driver: pip install 'penchant[postgres]'.") from error
        else:
            self.path = place / FILE_NAME
            self.name = str(self.path)
            self._lock = _open_folder(place, exclusive=exclusive)
            self._writer, self._readers = sqlite_engines(self.path, readers)
        self._lookups = self._readers.execution_options(
            **({"isolation_level": "AUTOCOMMIT"} if self.shared else {})
        )
        try:
            self._bring_up_to_date()
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
        """Return `query(connection, *args, **kwargs)`, called in a reader thread.

        The query must be a single statement. On PostgreSQL this saves the two round trips of a transaction.

        Raises:
            SQLAlchemyError: If the database cannot be read.
        """

        def look_up() -> Answer:
            with self._lookups.connect() as connection:
                return query(connection, *args, **kwargs)

        return await self.run(look_up)

    async def read_snapshot(
        self, query: Callable[Concatenate[Connection, P], Answer], *args: P.args, **kwargs: P.kwargs
    ) -> Answer:
        """Return `query(connection, *args, **kwargs)`, called in a reader thread on one consistent view.

        Raises:
            SQLAlchemyError: If the database cannot be read.
        """

        def read() -> Answer:
            with self.reading() as connection:
                return query(connection, *args, **kwargs)

        return await self.run(read)

    async def run(self, function: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
        """Return `function(*args, **kwargs)`, called in a reader thread, for functions that open a view themselves."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, durable when the block ends; on SQLite one at a time."""
        with self._writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view; never waits for writers."""
        with self._readers.connect() as connection:
            yield connection

    @contextmanager
    def holding(self) -> Iterator[Connection]:
        """For PostgreSQL's locks that outlast transactions: each statement is one, and the connection is kept."""
        with self._writer.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def salt(self) -> bytes:
        """Random bytes of this installation, made once: what hashed user ids in its logs are keyed with."""
        asked = select(installation.c.value).where(installation.c.name == "log_salt")
        with self._lookups.connect() as connection:
            value = connection.scalar(asked)
        if value is None:
            fresh = {"tenant": "", "name": "log_salt", "value": secrets.token_bytes(32)}
            with self.writing() as connection:
                insert_new(connection, installation, [fresh])
                value = connection.scalar(asked)
        if not isinstance(value, bytes):
            raise StoreError("The database lost its salt.")
        return value

    def close(self) -> None:
        """End the reader threads, close all connections and release the folder."""
        self._threads.shutdown()
        self._readers.dispose()
        self._writer.dispose()
        if self._lock is not None:
            self._lock.close()

    def _bring_up_to_date(self) -> None:
        with self.reading() as connection:  # which does not wait for whoever writes
            if is_up_to_date(connection):
                return
        with self._writer.connect() as connection:
            if self.path is None or self._lock is not None:
                migrate(connection)
                return
            # A command: the tables may be changed only where no server works with them.
            with _lock(self.path.parent / "lock"):
                migrate(connection)


def store_place(settings: Settings) -> Path | URL:
    """Where the store is that the settings name."""
    if settings.store_url is None:
        return settings.data_dir
    return make_url(settings.store_url.get_secret_value()).set(drivername="postgresql+psycopg")


def store_name(settings: Settings) -> str:
    """What to call the store in logs: no password in it."""
    place = store_place(settings)
    return str(place.resolve() / FILE_NAME) if isinstance(place, Path) else place.render_as_string()


def is_up_to_date(connection: Connection) -> bool:
    """Whether the tables are those of this version."""
    newest = ScriptDirectory.from_config(_migrations(connection)).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == newest


def migrate(connection: Connection) -> None:
    """Brings the tables up to the newest revision, whole or not at all; two at once wait for each other."""
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        if not is_up_to_date(connection):
            command.upgrade(_migrations(connection), "head")


def _migrations(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _open_folder(folder: Path, *, exclusive: bool) -> IO[bytes] | None:
    """Makes the folder, and holds it for a server."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _lock(folder / "lock") if exclusive else None
    except OSError as error:
        raise StoreError(f"The data folder {folder} cannot be used: {error.strerror or error}") from error


def _lock(path: Path) -> IO[bytes]:
    """Holds `path` for this process, until it ends in whatever way."""
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise StoreError(f"Another server uses the data folder {path.parent}.") from None
    return handle


def leave_mark(connection: Connection, now: float) -> None:
    """Writes one row, whatever there is to do otherwise: only that shows whether the disk takes any."""
    mark = {"tenant": "", "name": "last_written", "value": str(now).encode()}
    insert_or_replace(connection, installation, [mark])
