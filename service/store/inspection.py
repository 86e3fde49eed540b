"""A look at a store that changes nothing: not even its tables are brought up to date."""

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
from penchant.service.store.activations import active as active_bundle
from penchant.service.store.archive import revision
from penchant.service.store.database import FILE_NAME, store_place
from penchant.service.store.keys import has_keys as stored_keys
from penchant.service.store.tables import activations, api_keys, feedback_events

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_TIMEOUT_SECONDS: Final = 5


@dataclass(frozen=True)
class StoreFacts:
    """What was seen.

    Attributes:
        version: Of the database software.
        revision: Of the tables; None where there are none.
        newest: Revision that this version of penchant makes.
        revisions: All that it knows, newest first.
        events: In the feedback log.
        newest_event: When the last of them came, Unix seconds.
        faults: What is wrong with the file or the server.
        warnings: What is risky about them.
        clock_skew: The database server's clock less ours, seconds.
        has_keys: Whether an API key was ever made.
        bundle: Archive of the bundle that its servers rank with, as `stored_bundles` packs it; None where there is none.
        is_in_use: Whether a server holds the folder; None where that cannot be told.
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


def look_at(settings: Settings) -> StoreFacts | None:
    """What the store that the settings name is like; None where it is a file that is not there yet.

    Cost: SQLite reads the whole file.

    Raises:
        SQLAlchemyError: It cannot be opened or read.
        ImportError: There is no driver for it.
    """
    place = store_place(settings)
    if isinstance(place, Path) and not (place / FILE_NAME).is_file():
        return None
    with _connection(place) as connection:
        known = tuple(script.revision for script in _scripts().walk_revisions())
        found = revision(connection)
        events, newest_event = _events(connection)
        has_keys = inspect(connection).has_table(api_keys.name) and stored_keys(connection)
        bundle = None
        if inspect(connection).has_table(activations.name) and (ranks := active_bundle(connection)):
            bundle = bundles.archive(connection, ranks)
        faults, warnings, version, skew = (
            _look_at_file(connection) if isinstance(place, Path) else _look_at_server(connection)
        )
    return StoreFacts(
        version=version,
        revision=found,
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


_Look = tuple[tuple[str, ...], tuple[str, ...], str, float]


def _look_at_file(connection: Connection) -> _Look:
    said = [row[0] for row in connection.execute(text("PRAGMA quick_check(5)"))]
    version = connection.scalar(text("SELECT sqlite_version()"))
    return (() if said == ["ok"] else tuple(said)), (), f"SQLite {version}", 0.0


def _look_at_server(connection: Connection) -> _Look:
    before = time.time()
    clock = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or before)
    skew = clock - (before + time.time()) / 2

    def shown(name: str) -> str:
        return str(connection.scalar(text(f"SHOW {name}")))

    faults, warnings = [], []
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        faults.append("it is a standby, which cannot be written")
    if shown("default_transaction_read_only") == "on":
        faults.append("it is set to be read only")
    if shown("server_encoding") != "UTF8":
        faults.append(f"its encoding is {shown('server_encoding')}, not UTF8")
    for name in ("fsync", "full_page_writes"):
        if shown(name) != "on":
            warnings.append(f"{name} is off: what was acknowledged may be lost with its machine's power")
    return tuple(faults), tuple(warnings), f"PostgreSQL {shown('server_version')}", skew


def _events(connection: Connection) -> tuple[int, float | None]:
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
    def _change_nothing(connection: Connection) -> None:
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
