"""Archives: a whole store in one file, for either database, written from one snapshot and restored all or nothing.

The file is a ZIP of `manifest.json` and one `<table>.jsonl` per table. Each line is a row, with its values in the
manifest's order of columns and bytes as base64. Tables and columns are those of `tables.metadata`, so that new tables
are included automatically. A table's checksum is the sum of its rows' hashes, which does not depend on their order.
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

from penchant.service.store.tables import (
    activations,
    bundles,
    feedback_events,
    installation,
    metadata,
    rankings,
)

_ROWS_AT_ONCE: Final = 200
_LONG_ROWS_AT_ONCE: Final = 8  # of tables whose rows may have megabytes
_BYTES_AT_ONCE: Final = 8 * 2**20  # lines after which rows are inserted
_HASH_BYTES: Final = 16
_LONG: Final = (feedback_events, rankings, bundles)
# Tables that the first server fills. A restore replaces them by the archive's.
_FILLED_AT_START: Final = (installation, bundles, activations)
_FAST: Final = 1  # zlib level; vectors hardly shrink further

Report = Callable[[str, int, int], None]
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"


class ArchiveError(RuntimeError):
    """The store cannot be archived, or the archive cannot be restored into it."""


@dataclass(frozen=True)
class TableCard:
    """A table's entry in an archive's manifest.

    Attributes:
        name: Name of the table.
        columns: Names of the columns, in the order of the values.
        rows: Number of rows.
        checksum: Hexadecimal checksum of all rows, independent of their order.
    """

    name: str
    columns: list[str]
    rows: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """The manifest of an archive.

    Attributes:
        format: Format of the file.
        revision: Revision of the tables.
        penchant: Version of penchant that wrote the archive.
        dialect: Kind of database that was archived.
        created_at: Unix seconds.
        tables: One card per table, in the order in which they are restored.
    """

    format: int
    revision: str
    penchant: str
    dialect: str
    created_at: float
    tables: list[TableCard]

    @property
    def rows(self) -> int:
        """Number of rows of all tables."""
        return sum(table.rows for table in self.tables)


def find_revision(connection: Connection) -> str | None:
    """Return the revision of the tables, or None if there are no tables."""
    return MigrationContext.configure(connection).get_current_revision()


def write_archive(connection: Connection, file: IO[bytes], report: Report | None = None) -> Manifest:
    """Write all tables, as they are at one moment, without blocking writers. Memory does not grow with the store.

    Args:
        connection: New connection that reads and has not run a query yet.
        file: File to write to, which need not be seekable.
        report: Called with a table's name, the rows done, and the total number of rows (0 if unknown).

    Raises:
        ArchiveError: If the database has no tables of penchant.
    """
    _hold_snapshot(connection)
    revision = find_revision(connection)
    if revision is None:
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
            FORMAT, revision, version("penchant"), connection.dialect.name, round(time.time(), 3), cards
        )
        archive.writestr(MANIFEST, orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
    return manifest


def read_archive(connection: Connection, file: IO[bytes], report: Report | None = None) -> Manifest:
    """Fill an empty store from an archive, then read the rows back and verify their checksums.

    If this raises, the caller must roll the transaction back.

    Args:
        connection: Connection in the write transaction that restores everything.
        file: Archive, seekable.
        report: Called with a table's name, the rows done, and the total number of rows.

    Raises:
        ArchiveError: If the store is not empty, if the archive has other tables, or if a checksum differs.
    """
    manifest = read_manifest(file)
    _check_fits(connection, manifest)
    _hold_tables(connection)
    _check_empty(connection)
    for table in _FILLED_AT_START:
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
        _check(card, digest, "The restored store differs from the archive")
    return manifest


def _fill(connection: Connection, archive: zipfile.ZipFile, card: TableCard, report: Report | None) -> None:
    table = metadata.tables[card.name]
    columns = [table.columns[name] for name in card.columns]
    digest = _Digest()
    with archive.open(f"{card.name}.jsonl") as member:
        lines = (line.rstrip(b"\n") for line in member)
        while some := _take(lines):
            connection.execute(insert(table), [_parse_row(columns, line) for line in some])
            for line in some:
                digest.add(line)
            if report:
                report(card.name, digest.rows, card.rows)
    _check(card, digest, "The archive is damaged")


def _take(lines: Iterator[bytes]) -> list[bytes]:
    """Return the next lines, as many as are inserted at once."""
    taken: list[bytes] = []
    size = 0
    for line in islice(lines, _ROWS_AT_ONCE):
        taken.append(line)
        size += len(line)
        if size >= _BYTES_AT_ONCE:
            break
    return taken


def _check(card: TableCard, digest: "_Digest", fault: str) -> None:
    if (digest.rows, digest.hex()) != (card.rows, card.checksum):
        expected = f"{card.rows} rows with checksum {card.checksum}"
        raise ArchiveError(
            f"{fault}: {card.name} has {digest.rows} rows with checksum {digest.hex()}, not {expected}."
        )


def _check_fits(connection: Connection, manifest: Manifest) -> None:
    if (revision := find_revision(connection)) != manifest.revision:
        raise ArchiveError(
            f"The archive was written by penchant {manifest.penchant} with tables of revision {manifest.revision}; "
            f"the store has {revision}. Restore it with that version, then start this one on it."
        )
    archived = {card.name: sorted(card.columns) for card in manifest.tables}
    known = {table.name: sorted(table.columns.keys()) for table in metadata.sorted_tables}
    if archived != known:
        names = archived.keys() | known.keys()
        different = sorted(name for name in names if archived.get(name) != known.get(name))
        raise ArchiveError(f"The archive's tables differ from the store's: {', '.join(different)}.")


def _check_empty(connection: Connection) -> None:
    for table in metadata.sorted_tables:
        if table not in _FILLED_AT_START and connection.scalar(select(func.count()).select_from(table)):
            raise ArchiveError(f"The store is not empty: {table.name} holds rows. Nothing was changed.")


def _hold_snapshot(connection: Connection) -> None:
    """Make the transaction read one snapshot, as SQLite's readers always do."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))


def _hold_tables(connection: Connection) -> None:
    """Lock all tables until the transaction ends, as SQLite's writers always do."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
        connection.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))


def _lines(connection: Connection, table: Table, names: Sequence[str]) -> Iterator[bytes]:
    """Yield each row as a line of JSON without its end. Few rows are in memory at once."""
    columns = [table.columns[name] for name in names]
    rows_at_once = _LONG_ROWS_AT_ONCE if table in _LONG else _ROWS_AT_ONCE
    rows = connection.execution_options(yield_per=rows_at_once).execute(
        select(*columns).order_by(*table.primary_key)
    )
    for row in rows:
        yield orjson.dumps([_encode(column, value) for column, value in zip(columns, row, strict=True)])


def _parse_row(columns: Sequence[Column[Any]], line: bytes) -> dict[str, Any]:
    values = zip(columns, orjson.loads(line), strict=True)
    return {column.name: _decode(column, value) for column, value in values}


def _encode(column: Column[Any], value: Any) -> Any:  # noqa: ANN401 - any column's value
    if isinstance(column.type, LargeBinary) and value is not None:
        return b64encode(value).decode()
    if isinstance(column.type, Float) and value is not None:
        # JSON has no infinity, and SQLite no -0.0.
        return value + 0.0 if math.isfinite(value) else str(value)
    return value


def _decode(column: Column[Any], value: Any) -> Any:  # noqa: ANN401
    if isinstance(column.type, LargeBinary) and value is not None:
        return b64decode(value)
    if isinstance(column.type, Float) and value is not None:
        return float(value)
    return value


class _Digest:
    """The number of rows, and the sum of their hashes."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, line: bytes) -> None:
        self.rows += 1
        self._sum += int.from_bytes(hashlib.blake2b(line, digest_size=_HASH_BYTES).digest())

    def hex(self) -> str:
        return f"{self._sum % 2 ** (8 * _HASH_BYTES):0{2 * _HASH_BYTES}x}"


def read_manifest(file: IO[bytes]) -> Manifest:
    """Return the manifest of an archive.

    Raises:
        ArchiveError: If the file is not an archive, or has another format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = orjson.loads(archive.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise ArchiveError(
                f"The archive has format {manifest['format']}; this version reads format {FORMAT}."
            )
        return Manifest(**manifest | {"tables": [TableCard(**card) for card in manifest["tables"]]})
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, zlib.error, EOFError) as error:
        raise ArchiveError(f"The file is not an archive of penchant, or it is incomplete: {error}") from error
