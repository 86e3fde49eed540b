"""A store in one file: nothing left out, one moment, all or nothing."""

import io
import json
import tracemalloc
import zipfile

import pytest
from sqlalchemy import Float, Integer, LargeBinary, delete, insert, select

from penchant.service.store.archive import read_archive, write_archive
from penchant.service.store.database import Database
from penchant.service.store.manifest import ArchiveError, read_manifest
from penchant.service.store.tables import installation, metadata, rankings

TEXTS = ["", "plain", 'a "quoted"\nline, ünïcode 日本 \u2028 🙂', "null"]
FLOATS = [0.1, -0.0, 1e308, 5e-324, 1754000000.123456, float("inf")]
BLOBS = [b"", b"\x00\xff\n", bytes(range(256))]


def value(column, n):
    if isinstance(column.type, LargeBinary):
        return BLOBS[n % 3]
    if isinstance(column.type, Float):
        return None if column.nullable and n % 4 == 3 else FLOATS[n % 6]
    if isinstance(column.type, Integer):
        return n
    if column.nullable and n % 3 == 2:
        return None
    text = TEXTS[n % 4] + str(n) * (column.primary_key or column.index is not None)
    return (text + str(n))[:32]


def fill(database, rows=7):
    """Puts rows of odd values into every table."""
    with database.writing() as connection:
        for table in metadata.sorted_tables:
            made = [{c.name: value(c, n) for c in table.columns} for n in range(rows)]
            connection.execute(insert(table), made)


def contents(database):
    with database.reading() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(select(table))))
            for table in metadata.sorted_tables
        }


@pytest.fixture
def open_store(tmp_path):
    opened = []

    def opening(name):
        opened.append(Database(tmp_path / name))
        return opened[-1]

    yield opening
    for database in opened:
        database.close()


@pytest.fixture
def full(open_store):
    """A store with seven rows in each table."""
    database = open_store("full")
    fill(database)
    return database


@pytest.fixture
def archive(full):
    return archived(full)


def archived(database):
    file = io.BytesIO()
    with database.reading() as connection:
        write_archive(connection, file)
    return file


def restore(database, file):
    with database.writing() as connection:
        return read_archive(connection, file)


def rewritten(file, change):
    """The archive with its members put through `change(name, bytes)`."""
    made = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return made


def with_manifest(file, **changes):
    return rewritten(
        file,
        lambda name, data: (
            json.dumps(json.loads(data) | changes).encode() if name == "manifest.json" else data
        ),
    )


def test_every_row_of_every_table_comes_back(full, archive, open_store):
    other = open_store("other")
    manifest = restore(other, archive)
    assert contents(other) == contents(full)
    assert {card.name: card.rows for card in manifest.tables} == dict.fromkeys(metadata.tables, 7)
    assert manifest == read_manifest(archive)
    again = read_manifest(archived(other))
    assert again.tables == manifest.tables


def test_an_empty_store_takes_the_archive_s_salt(full, archive, open_store):
    other = open_store("other")
    other.salt()
    restore(other, archive)
    with other.reading() as connection:
        assert len(connection.execute(select(installation)).all()) == 7


def test_an_archive_is_of_one_moment(full):
    class Interrupting(io.BytesIO):
        """Has the store written to as soon as the archive is begun."""

        def write(self, data):
            if not self.tell():
                with full.writing() as connection:
                    for table in metadata.sorted_tables:
                        connection.execute(delete(table))
            return super().write(data)

    file = Interrupting()
    with full.reading() as connection:
        write_archive(connection, file)
    assert {card.rows for card in read_manifest(file).tables} == {7}
    assert {card.rows for card in read_manifest(archived(full)).tables} == {0}


def test_nothing_is_restored_over_anything(archive, open_store):
    other = open_store("other")
    with other.writing() as connection:
        row = {"tenant": "t", "rank_id": "r", "user_id": "u", "shown": b"{}", "created_at": 1.0}
        connection.execute(insert(rankings), row)
    before = contents(other)
    with pytest.raises(ArchiveError, match="not empty: rankings holds rows"):
        restore(other, archive)
    assert contents(other) == before


def lose_a_row(name, data):
    return data.partition(b"\n")[2] if name == "features.jsonl" else data


def change_a_row(name, data):
    return data.replace(b"plain", b"plane", 1) if name == "feedback_events.jsonl" else data


def cut(file):
    return io.BytesIO(file.getvalue()[:-200])


def flip(file):
    data = bytearray(file.getvalue())
    data[300] ^= 0xFF
    return io.BytesIO(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: rewritten(file, lose_a_row), "damaged: features has 6 rows"),
        (lambda file: rewritten(file, change_a_row), "damaged: feedback_events has 7 rows"),
        (cut, "cut short"),
        (flip, "damaged"),
        (lambda _: io.BytesIO(b"no archive"), "no archive of penchant"),
        (lambda file: with_manifest(file, revision="r0001"), "revision r0001; the store has"),
        (lambda file: with_manifest(file, format=2), "format 2; this version reads format 1"),
        (lambda file: with_manifest(file, tables=[]), "tables are others than the store's: activations"),
        (lambda file: with_manifest(file, surprise=1), "no archive of penchant"),
    ],
)
def test_a_spoilt_archive_restores_nothing(archive, open_store, spoil, reason):
    other = open_store("other")
    before = contents(other)
    with pytest.raises(ArchiveError, match=reason):
        restore(other, spoil(archive))
    assert contents(other) == before


def test_memory_does_not_grow_with_the_store(open_store, tmp_path):
    database = open_store("large")
    with database.writing() as connection:
        made = [
            {
                "tenant": "t",
                "extractor": "e",
                "feature_key": n.to_bytes(16),
                "vector": bytes(4096),
                "tokens": 1,
                "truncated": 0,
            }
            for n in range(3000)
        ]
        connection.execute(insert(metadata.tables["features"]), made)
        del made
    with (tmp_path / "archive").open("wb") as file, database.reading() as connection:
        tracemalloc.start()
        write_archive(connection, file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    with (tmp_path / "archive").open("rb") as file:
        tracemalloc.start()
        restore(open_store("other"), file)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peak < 4 * 2**20  # of 12 MiB of vectors
