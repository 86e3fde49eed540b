"""Inspection of a store without any change to it. Not even its tables are migrated."""

import fcntl
import os
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
from penchant.service.store.database import FILE_NAME, find_table_fault, store_place
from penchant.service.store.expiry_clock import ClockRecord, find_clock_record
from penchant.service.store.keys import has_keys as stored_keys
from penchant.service.store.tables import activations, api_keys, feedback_events, installation

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_TIMEOUT_SECONDS: Final = 5


@dataclass(frozen=True)
class StoreFacts:
    """The findings of an inspection.

    Attributes:
        version: Name and version of the database software.
        revision: Revision of the tables. None if there are no tables.
        newest: Revision of the tables in this version of penchant.
        events: Number of events in the feedback log.
        newest_event: Arrival time of the newest event, in Unix seconds.
        faults: Faults of the file or the database server that prevent its use.
        warnings: Risks of the file or the database server.
        clock_skew: Seconds by which the database server's clock is ahead of this machine's.
        has_keys: Whether an API key was ever created.
        active: Version of the active bundle. None if no bundle is active.
        bundle: Archive of the active bundle, as `stored_bundles` packs it. None if the store does not hold it.
        clock: What the store records about time.
        is_in_use: Whether a server locks the data folder. None if that cannot be determined.
    """

    version: str
    revision: str | None
    newest: str
    events: int
    newest_event: float | None
    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    clock_skew: float
    has_keys: bool
    active: str | None
    bundle: bytes | None
    clock: ClockRecord
    is_in_use: bool | None


def inspect_store(settings: Settings) -> StoreFacts | None:
    """Inspect the store that the settings name. Return None if it is a file that does not exist yet.

    Cost: SQLite reads the whole file.

    Raises:
        StoreError: If its address cannot be read.
        SQLAlchemyError: If the store cannot be opened or read.
        ImportError: If the database's driver is not installed.
    """
    place = store_place(settings)
    if isinstance(place, Path) and not (place / FILE_NAME).is_file():
        return None
    with _connection(place) as connection:
        newest = _scripts().get_current_head() or ""
        current, table_fault = find_revision(connection), find_table_fault(connection)
        faults, warnings, version, skew = (
            _inspect_file(connection, place)
            if isinstance(place, Path)
            else _inspect_server(connection, may_migrate=current != newest)
        )
        events, newest_event, has_keys, active, bundle, clock = 0, None, False, None, None, ClockRecord()
        if table_fault is None:  # other tables may have other columns
            tables = set(inspect(connection).get_table_names())
            if feedback_events.name in tables:
                events, newest_event = _find_events(connection)
            has_keys = api_keys.name in tables and stored_keys(connection)
            active = find_active(connection) if activations.name in tables else None
            bundle = None if active is None else bundles.find_archive(connection, active)
            clock = find_clock_record(connection) if installation.name in tables else clock
    return StoreFacts(
        version=version,
        revision=current,
        newest=newest,
        events=events,
        newest_event=newest_event,
        faults=faults if table_fault is None else (table_fault, *faults),
        warnings=warnings,
        clock_skew=skew,
        has_keys=has_keys,
        active=active,
        bundle=bundle,
        clock=clock,
        is_in_use=_is_locked(place / "lock") if isinstance(place, Path) else None,
    )


_Inspection = tuple[tuple[str, ...], tuple[str, ...], str, float]


def _inspect_file(connection: Connection, folder: Path) -> _Inspection:
    reports = [row[0] for row in connection.execute(text("PRAGMA quick_check(5)"))]
    faults = [] if reports == ["ok"] else reports
    faults += [
        f"{name} cannot be written"
        for name in (FILE_NAME, "lock")
        if (folder / name).exists() and not os.access(folder / name, os.W_OK)
    ]
    is_empty = not (folder / FILE_NAME).stat().st_size
    warnings = ("the file is empty; if it ever held data, restore a backup",) if is_empty else ()
    version = connection.scalar(text("SELECT sqlite_version()"))
    return tuple(faults), warnings, f"SQLite {version}", 0.0


def _inspect_server(connection: Connection, *, may_migrate: bool) -> _Inspection:
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
    may = "has_schema_privilege(current_schema(), 'CREATE')"
    if may_migrate and not connection.scalar(text(f"SELECT {may}")):
        faults.append("its user may not create tables")
    may = f"has_table_privilege('{feedback_events.name}', 'INSERT')"
    if not may_migrate and not connection.scalar(text(f"SELECT {may}")):
        faults.append("its user may not write the tables")
    if show("server_encoding") != "UTF8":
        faults.append(f"its encoding is {show('server_encoding')}, not UTF8")
    for name in ("fsync", "full_page_writes"):
        if show(name) != "on":
            warnings.append(f"{name} is off: a power failure may lose acknowledged feedback")
    return tuple(faults), tuple(warnings), f"PostgreSQL {show('server_version')}", skew


def _find_events(connection: Connection) -> tuple[int, float | None]:
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
