"""A whole store in one file, whichever database holds it: written from one snapshot, restored all or nothing.

The file is a ZIP of `manifest.json` and one `<table>.jsonl` each: a row a line, its values in the manifest's order of
columns, bytes as base64. Tables and columns are those of `tables.metadata`, so a new table comes along by itself.
A table's checksum is the sum of its rows' hashes: the same in whatever order a database gives them back.
"""

import hashlib
import math
import time
import zipfile
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from typing import IO, Any, Final

import orjson
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Float, LargeBinary, Table, delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from penchant.service.store.tables import activations, bundles, installation, metadata

_ROWS_AT_ONCE: Final = 200
_HASH_BYTES: Final = 16
_MADE_AT_START: Final = (
    installation,
    bundles,
    activations,
)  # by the first server; the archive brings its own
_FAST: Final = 1  # zlib's level: vectors hardly shrink further

Report = Callable[[str, int, int], None]
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"


class ArchiveError(RuntimeError):
    """A store that cannot be written down, or a file that cannot be restored here."""


@dataclass(frozen=True)
class TableCard:
    """What an archive holds of one table.

    Attributes:
        name: The table.
        columns: Names, in the order of the values.
        rows: How many.
        checksum: Of all rows, hexadecimal; no order of rows matters to it.
    """

    name: str
    columns: list[str]
    rows: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """What an archive is.

    Attributes:
        format: Of the file.
        revision: Of the tables.
        penchant: Version that wrote it.
        dialect: Kind of database it comes from.
        created_at: Unix seconds.
        tables: One card each, in the order in which they are restored.
    """

    format: int
    revision: str
    penchant: str
    dialect: str
    created_at: float
    tables: list[TableCard]

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables)


def revision(connection: Connection) -> str | None:
    """Which revision the tables have."""
    return MigrationContext.configure(connection).get_current_revision()


def write_archive(connection: Connection, file: IO[bytes], report: Report | None = None) -> Manifest:
    """Writes every table as it is at one moment; writers are not held up. Memory does not grow with the store.

    Args:
        connection: A fresh reading connection, nothing asked of it yet.
        file: Where to; need not be seekable.
        report: Told of each table: its name, rows done, rows in all (0: unknown).

    Raises:
        ArchiveError: The tables are not there.
    """
    _hold_snapshot(connection)
    found = revision(connection)
    if found is None:
        raise ArchiveError("The database holds no tables of penchant.")
    cards = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_FAST) as archive:
        for table in metadata.sorted_tables:
            with archive.open(f"{table.name}.jsonl", "w", force_zip64=True) as member:
                digest = _Digest()
                for line in _lines(connection, table, table.columns.keys()):
                    member.write(line + b"\n")
                    digest.add(line)
                    if report and digest.rows % 10_000 == 0:
                        report(table.name, digest.rows, 0)
            if report:
                report(table.name, digest.rows, digest.rows)
            cards.append(TableCard(table.name, table.columns.keys(), digest.rows, digest.hex()))
        manifest = Manifest(
            FORMAT, found, version("penchant"), connection.dialect.name, round(time.time(), 3), cards
        )
        archive.writestr(MANIFEST, orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
    return manifest


def read_archive(connection: Connection, file: IO[bytes], report: Report | None = None) -> Manifest:
    """Fills an empty store, and reads back what it then holds; to be rolled back where it raises.

    Args:
        connection: In the one transaction of all this.
        file: An archive, seekable.
        report: Told of each table: its name, rows done, rows in all.

    Raises:
        ArchiveError: The store is not empty, the archive is of other tables, or a checksum differs.
    """
    manifest = read_manifest(file)
    _check_fits(connection, manifest)
    _hold_tables(connection)
    _check_empty(connection)
    for table in _MADE_AT_START:
        connection.execute(delete(table))
    try:
        with zipfile.ZipFile(file) as archive:
            for card in manifest.tables:
                _fill(connection, archive, card, report)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise ArchiveError(f"The archive is damaged: {error}") from error
    except SQLAlchemyError as error:
        raise ArchiveError(f"The store refuses a row: {type(error).__name__}: {error}") from error
    for card in manifest.tables:
        digest = _Digest()
        for line in _lines(connection, metadata.tables[card.name], card.columns):
            digest.add(line)
        _check(card, digest, "The store does not give back what it was given")
    return manifest


def _fill(connection: Connection, archive: zipfile.ZipFile, card: TableCard, report: Report | None) -> None:
    table = metadata.tables[card.name]
    columns = [table.columns[name] for name in card.columns]
    digest = _Digest()
    with archive.open(f"{card.name}.jsonl") as member:
        lines = (line.rstrip(b"\n") for line in member)
        while some := list(islice(lines, _ROWS_AT_ONCE)):
            connection.execute(insert(table), [_row(columns, line) for line in some])
            for line in some:
                digest.add(line)
            if report:
                report(card.name, digest.rows, card.rows)
    _check(card, digest, "The archive is damaged")


def _check(card: TableCard, digest: "_Digest", fault: str) -> None:
    if (digest.rows, digest.hex()) != (card.rows, card.checksum):
        told = f"{card.rows} rows, checksum {card.checksum}"
        raise ArchiveError(f"{fault}: {card.name} has {digest.rows} rows, {digest.hex()}, not {told}.")


def _check_fits(connection: Connection, manifest: Manifest) -> None:
    if (here := revision(connection)) != manifest.revision:
        raise ArchiveError(
            f"The archive was written by penchant {manifest.penchant} with tables of revision {manifest.revision}; "
            f"the store has {here}. Restore it with that version, then start the newer one on it."
        )
    told = {card.name: sorted(card.columns) for card in manifest.tables}
    known = {table.name: sorted(table.columns.keys()) for table in metadata.sorted_tables}
    if told != known:
        differ = sorted(name for name in told.keys() | known.keys() if told.get(name) != known.get(name))
        raise ArchiveError(f"The archive's tables are others than the store's: {', '.join(differ)}.")


def _check_empty(connection: Connection) -> None:
    for table in metadata.sorted_tables:
        if table not in _MADE_AT_START and connection.scalar(select(func.count()).select_from(table)):
            raise ArchiveError(f"The store is not empty: {table.name} holds rows. Nothing was changed.")


def _hold_snapshot(connection: Connection) -> None:
    """All that this transaction reads is of one moment. SQLite's readers have that anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        _take_time(connection)


def _hold_tables(connection: Connection) -> None:
    """Nobody else writes until this transaction ends. SQLite's writers have that anyway."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
        connection.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))
        _take_time(connection)


def _take_time(connection: Connection) -> None:
    """Lifts the limits that a server's transactions have: this one is long."""
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        connection.execute(text(f"SET LOCAL {limit} = 0"))


def _lines(connection: Connection, table: Table, names: Sequence[str]) -> Iterator[bytes]:
    """Each row as JSON, without end of line; a few hundred in memory at once."""
    columns = [table.columns[name] for name in names]
    rows = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(
        select(*columns).order_by(*table.primary_key)
    )
    for row in rows:
        yield orjson.dumps([_encoded(column, value) for column, value in zip(columns, row, strict=True)])


def _row(columns: Sequence[Column[Any]], line: bytes) -> dict[str, Any]:
    values = zip(columns, orjson.loads(line), strict=True)
    return {column.name: _decoded(column, value) for column, value in values}


def _encoded(column: Column[Any], value: Any) -> Any:  # noqa: ANN401 - whatever a column holds
    if isinstance(column.type, LargeBinary) and value is not None:
        return b64encode(value).decode()
    if isinstance(column.type, Float) and value is not None:
        # JSON has no infinity, and SQLite no -0.0.
        return value + 0.0 if math.isfinite(value) else str(value)
    return value


def _decoded(column: Column[Any], value: Any) -> Any:  # noqa: ANN401
    if isinstance(column.type, LargeBinary) and value is not None:
        return b64decode(value)
    if isinstance(column.type, Float) and value is not None:
        return float(value)
    return value


class _Digest:
    """Counts rows, and sums their hashes."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, line: bytes) -> None:
        self.rows += 1
        self._sum += int.from_bytes(hashlib.blake2b(line, digest_size=_HASH_BYTES).digest())

    def hex(self) -> str:
        return f"{self._sum % 2 ** (8 * _HASH_BYTES):0{2 * _HASH_BYTES}x}"


def read_manifest(file: IO[bytes]) -> Manifest:
    """What an archive says that it holds.

    Raises:
        ArchiveError: The file is no archive, or one of another format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            told = orjson.loads(archive.read(MANIFEST))
        if told["format"] != FORMAT:
            raise ArchiveError(
                f"The archive has format {told['format']}; this version reads format {FORMAT}."
            )
        return Manifest(**told | {"tables": [TableCard(**card) for card in told["tables"]]})
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, zlib.error, EOFError) as error:
        raise ArchiveError(f"The file is no archive of penchant, or is cut short: {error}") from error
