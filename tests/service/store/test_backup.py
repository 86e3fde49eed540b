"""Backups hold the whole store at one moment in one file. A restore is all or nothing."""

import io
import json
import tracemalloc
import zipfile

import pytest
from pydantic import SecretStr
from sqlalchemy import Float, Integer, LargeBinary, delete, insert, select
from typer.testing import CliRunner

from penchant.service.cli.app import app
from penchant.service.settings import Settings
from penchant.service.store.archive import ArchiveError, read_archive, read_manifest, write_archive
from penchant.service.store.database import Store
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
    return f"{n}{TEXTS[n % 4]}"[: column.type.length]


def fill(database, rows=7):
    """Insert rows of unusual values into every table."""
    with database.writing() as connection:
        for table in metadata.sorted_tables:
            made = [{c.name: value(c, n) for c in table.columns} for n in range(rows)]
            connection.execute(insert(table), made)


def plain(value):
    """Turn -0.0 into 0.0, which SQLite does not tell apart."""
    return value + 0.0 if isinstance(value, float) else value


def contents(database):
    with database.reading() as connection:
        return {
            table.name: sorted(repr([plain(v) for v in row]) for row in connection.execute(select(table)))
            for table in metadata.sorted_tables
        }


@pytest.fixture
def open_store(new_store):
    """Returns a function that opens new stores of one kind."""
    opened = []

    def opening():
        opened.append(Store.open(Settings(**new_store().place)))
        return opened[-1]

    yield opening
    for database in opened:
        database.close()


@pytest.fixture
def full(open_store):
    """Store with seven rows in each table."""
    database = open_store()
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
    """Rewrite the archive with each member replaced by `change(name, bytes)`."""
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


def test_every_row_of_every_table_is_restored(full, archive, open_store):
    other = open_store()
    manifest = restore(other, archive)
    assert contents(other) == contents(full)
    assert {card.name: card.rows for card in manifest.tables} == dict.fromkeys(metadata.tables, 7)
    assert manifest == read_manifest(archive)
    again = read_manifest(archived(other))
    assert again.tables == manifest.tables


def test_an_empty_store_takes_the_archive_s_salt(full, archive, open_store):
    other = open_store()
    other.salt()
    restore(other, archive)
    with other.reading() as connection:
        assert len(connection.execute(select(installation)).all()) == 7


def test_an_archive_is_a_snapshot_of_one_moment(full):
    class Interrupting(io.BytesIO):
        """A file that writes to the store as soon as the archive is begun."""

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


def test_a_restore_overwrites_nothing(archive, open_store):
    other = open_store()
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
    return data.replace(b"1plain", b"1plane", 1) if name == "feedback_events.jsonl" else data


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
        (cut, "incomplete"),
        (flip, "damaged"),
        (lambda _: io.BytesIO(b"no archive"), "not an archive of penchant"),
        (lambda file: with_manifest(file, revision="r0001"), "revision r0001; the store has"),
        (lambda file: with_manifest(file, format=2), "format 2; this version reads format 1"),
        (lambda file: with_manifest(file, tables=[]), "tables differ from the store's: activations"),
        (lambda file: with_manifest(file, surprise=1), "not an archive of penchant"),
    ],
)
def test_a_damaged_archive_restores_nothing(archive, open_store, spoil, reason):
    other = open_store()
    before = contents(other)
    with pytest.raises(ArchiveError, match=reason):
        restore(other, spoil(archive))
    assert contents(other) == before


def test_memory_does_not_grow_with_the_store(open_store, tmp_path):
    database = open_store()
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
        restore(open_store(), file)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peak < 4 * 2**20  # of 12 MiB of vectors


KINDS = [
    {"type": "vote", "text": "boat sea", "value": 1, "event_id": "e1"},
    {"type": "preference", "prompt": "p", "chosen": "boat", "rejected": "sea", "event_id": "e2"},
    {"type": "choice", "candidates": ["a", "b", "c"], "index": 1},
    {"type": "retract", "target_event_id": "e1"},
]
REQUEST = {"prompt": "p", "candidates": ["boat sea", "a", "something else"], "user": "u"}


def run(*arguments, **place):
    options = [f"--data-dir={place['data_dir']}"]
    if "store_url" in place:
        options.append(f"--store-url={place['store_url'].get_secret_value()}")
    return CliRunner().invoke(app, [*map(str, arguments), *options])


def teach(client):
    for event in KINDS:
        assert client.post("/v1/feedback", json=event | {"user": "u"}).json()["accepted"] == 1


def describe_user(client):
    """Return answers about the user that only the same log and the same state can give."""
    description = client.get("/v1/users/u").json()
    log = client.get("/v1/users/u/feedback").json()["data"]
    return client.post("/v1/best-of-n", json=REQUEST).json()["results"], description, log


def test_a_backup_of_a_serving_store_is_restored_and_served(serve, store, fresh, tmp_path):
    client = serve()
    teach(client)
    file = tmp_path / "backup.zip"
    done = run("backup", file, **store.place)
    assert done.exit_code == 0, done.output
    assert "feedback_events 4" in done.output
    assert file.stat().st_mode & 0o777 == 0o600
    before = describe_user(client)
    vote = KINDS[0] | {"user": "u", "event_id": "later"}
    assert client.post("/v1/feedback", json=vote).json()["accepted"] == 1  # after the moment of the backup
    done = run("restore", file, **fresh.place)
    assert done.exit_code == 0, done.output
    assert "checksums match" in done.output
    client = serve(**fresh.place)
    assert describe_user(client) == before
    assert client.post("/v1/feedback", json=KINDS[1] | {"user": "u"}).json()["duplicates"] == 1


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
def test_a_backup_moves_a_store_between_kinds_of_databases_and_back(serve, store, fresh, postgres, tmp_path):
    client = serve()
    teach(client)
    before = describe_user(client)
    shared = {"data_dir": tmp_path, "store_url": SecretStr(postgres.new())}
    for name, here, there in (("one", store.place, shared), ("two", shared, fresh.place)):
        assert run("backup", tmp_path / name, **here).exit_code == 0
        done = run("restore", tmp_path / name, **there)
        assert done.exit_code == 0, done.output
        assert describe_user(serve(**{"store_url": None} | there)) == before
        serve(**store.place)  # stops the server before its store is read


def test_commands_explain_their_refusals(serve, store, fresh, tmp_path):
    teach(serve())
    file = tmp_path / "backup.zip"
    assert run("backup", file, **store.place).exit_code == 0
    written = file.read_bytes()
    again = run("backup", file, **store.place)
    assert again.exit_code == 2
    assert "already exists" in again.output
    assert file.read_bytes() == written
    over = run("restore", file, **store.place)
    assert over.exit_code == 1
    assert "not empty" in over.output or "Another server uses" in over.output
    assert "No such file" in run("restore", tmp_path / "nothing", **fresh.place).output
    file.write_bytes(written[:-100])
    cut_short = run("restore", file, **fresh.place)
    assert cut_short.exit_code == 1
    assert "incomplete" in cut_short.output
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


def test_a_backup_that_fails_leaves_no_file(serve, store, tmp_path, monkeypatch):
    teach(serve())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    done = run("backup", tmp_path / "backup.zip", **store.place)
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []
