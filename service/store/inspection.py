"""Inspection of a store without any change to it. Not even its tables are migrated."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, create_engine, event, func, inspect, select, text
from sqlalchemy.pool import NullPool

from penchant.service.settings import Settings
from penchant.service.store import bundles
from penchant.service.store.activations import find_active
from penchant.service.store.archive import find_revision
from penchant.service.store.database import FILE_NAME, store_place
from penchant.service.store.keys import has_keys as stored_keys
from penchant.service.store.tables import activations, api_keys, feedback_events

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_TIMEOUT_SECONDS: Final = 5


@dataclass(frozen=True)
class StoreFacts:
    """The findings of an inspection.

    Attributes:
        version: Name and version of the database software.
        revision: Revision of the tables. None if there are no tables.
        newest: Revision of the tables in this version of penchant.
        revisions: All revisions that this version knows, newest first.
        events: Number of events in the feedback log.
        newest_event: Arrival time of the newest event, in Unix seconds.
        faults: Faults of the file or the database server that prevent its use.
        warnings: Risks of the file or the database server.
        clock_skew: Seconds by which the database server's clock is ahead of this machine's.
        has_keys: Whether an API key was ever created.
        bundle: Archive of the active bundle, as `stored_bundles` packs it. None if no bundle is active.
        is_in_use: Whether a server locks the data folder. None if that cannot be determined.
    """

    version: str
    revision: str | None
    newest: str
    revisions: tuple[str, ...]
    events: int
    newest_event: float | None
    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    clock_skew: float
    has_keys: bool
    bundle: bytes | None
    is_in_use: bool | None


def inspect_store(settings: Settings) -> StoreFacts | None:
    """Inspect the store that the settings name. Return None if it is a file that does not exist yet.

    Cost: SQLite reads the whole file.

    Raises:
        SQLAlchemyError: If the store cannot be opened or read.
        ImportError: If the database's driver is not installed.
    """
    place = store_place(settings)
    if isinstance(place, Path) and not (place / FILE_NAME).is_file():
        return None
    with _connection(place) as connection:
        known = tuple(script.revision for script in _scripts().walk_revisions())
        current = find_revision(connection)
        events, newest_event = _find_events(connection)
        has_keys = inspect(connection).has_table(api_keys.name) and stored_keys(connection)
        bundle = None
        if inspect(connection).has_table(activations.name) and (active := find_active(connection)):
            bundle = bundles.find_archive(connection, active)
        faults, warnings, version, skew = (
            _inspect_file(connection) if isinstance(place, Path) else _inspect_server(connection)
        )
    return StoreFacts(
        version=version,
        revision=current,
        newest=known[0],
        revisions=known,
        events=events,
        newest_event=newest_event,
        faults=faults,
        warnings=warnings,
        clock_skew=skew,
        has_keys=has_keys,
        bundle=bundle,
        is_in_use=_is_locked(place / "lock") if isinstance(place, Path) else None,
    )


_Inspection = tuple[tuple[str, ...], tuple[str, ...], str, float]


def _inspect_file(connection: Connection) -> _Inspection:
    reports = [row[0] for row in connection.execute(text("PRAGMA quick_check(5)"))]
    version = connection.scalar(text("SELECT sqlite_version()"))
    return (() if reports == ["ok"] else tuple(reports)), (), f"SQLite {version}", 0.0


def _inspect_server(connection: Connection) -> _Inspection:
    before = time.time()
    clock = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or before)
    skew = clock - (before + time.time()) / 2

    def show(name: str) -> str:
        return str(connection.scalar(text(f"SHOW {name}")))

    faults, warnings = [], []
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        faults.append("it is a standby server, which cannot be written")
    if show("default_transaction_read_only") == "on":
        faults.append("it is configured to be read-only")
    if show("server_encoding") != "UTF8":
        faults.append(f"its encoding is {show('server_encoding')}, not UTF8")
    for name in ("fsync", "full_page_writes"):
        if show(name) != "on":
            warnings.append(f"{name} is off: a power failure may lose acknowledged feedback")
    return tuple(faults), tuple(warnings), f"PostgreSQL {show('server_version')}", skew


def _find_events(connection: Connection) -> tuple[int, float | None]:
    if not inspect(connection).has_table(feedback_events.name):
        return 0, None
    statement = select(func.count(), func.max(feedback_events.c.received_at)).select_from(feedback_events)
    number, newest = connection.execute(statement).one()
    return number, newest


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_MIGRATIONS))


@contextmanager
def _connection(place: Path | URL) -> Iterator[Connection]:
    url = f"sqlite:///{place / FILE_NAME}" if isinstance(place, Path) else place
    timeout = {"timeout" if isinstance(place, Path) else "connect_timeout": _TIMEOUT_SECONDS}
    engine = create_engine(url, hide_parameters=True, poolclass=NullPool, connect_args=timeout)

    @event.listens_for(engine, "begin")
    def _forbid_writes(connection: Connection) -> None:
        sqlite = connection.dialect.name == "sqlite"
        connection.exec_driver_sql("PRAGMA query_only = ON" if sqlite else "SET TRANSACTION READ ONLY")

    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _is_locked(path: Path) -> bool | None:
    try:
        with path.open("rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except OSError:
        return None
