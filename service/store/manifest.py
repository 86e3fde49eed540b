"""What an archive of a store says of itself."""

import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, Final

import orjson

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
