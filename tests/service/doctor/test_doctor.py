"""`penchant doctor`: each thing that may be wrong is found, named and advised on; nothing secret, nothing changed."""

import json
import os
import sqlite3
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.bundles.loading import StartError
from penchant.service.cli.app import app
from penchant.service.doctor import checks, model
from penchant.service.doctor.checks import examine
from penchant.service.store.database import FILE_NAME, Store

SECRET = "swordfish-swordfish"
EXTRACTOR = FeatureExtractor(HashingEncoder())


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """The bundle and encoder without weights: the real ones are tested once, in test_the_shipped_model."""
    monkeypatch.setattr(model, "load_bundle", lambda _settings: tiny_bundle(EXTRACTOR))
    monkeypatch.setattr(model, "load_extractor", lambda _settings, _bundle: EXTRACTOR)


def found(folder, check=None, **given):
    """(status, detail, advice) of what was found, of one check or of all."""
    findings = examine({"data_dir": folder} | given)
    return [(f.status, f.detail, f.advice) for f in findings if check in (None, f.check)]


def bad(folder, check=None, **given):
    return [one for one in found(folder, check, **given) if one[0] != "ok"]


@pytest.fixture
def folder(tmp_path):
    """A store as a server leaves it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    Store(folder).close()
    return folder


def test_all_is_well_with_an_ordinary_store(folder):
    findings = list(examine({"data_dir": folder}))
    assert [f for f in findings if f.status != "ok" and f.check not in ("threads", "folder")] == []
    checks = [f.check for f in findings]
    order = ["settings", "folder", "exposure", "store", "bundle", "encoder", "neighbours", "clock", "threads"]
    assert list(dict.fromkeys(checks)) == order


def test_a_store_that_is_not_there_yet_is_no_fault_and_is_not_made(tmp_path):
    [(status, detail, _)] = found(tmp_path / "new", "store")
    assert status == "ok"
    assert "first start creates it" in detail
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PENCHANT_MAX_CANDIDATE", "did you mean PENCHANT_MAX_CANDIDATES?"),
        ("PENCHANT_STORE_UR", "did you mean PENCHANT_STORE_URL?"),
        ("PENCHANT_XYZZY", "unset it"),
    ],
)
def test_unknown_settings_are_named(monkeypatch, folder, name, meant):
    monkeypatch.setenv(name, SECRET)
    assert bad(folder, "settings") == [("warning", f"{name} is not a setting and has no effect", meant)]


def test_the_sdk_s_settings_are_known(monkeypatch, folder):
    monkeypatch.setenv("PENCHANT_BASE_URL", "http://x")
    assert bad(folder, "settings") == []


def test_a_bad_value_ends_it_with_the_name_and_without_the_value(monkeypatch, folder):
    monkeypatch.setenv("PENCHANT_API_KEYS", json.dumps({"t": " ", "u": SECRET}))
    monkeypatch.setenv("PENCHANT_PORT", "99999")
    findings = bad(folder)
    assert {status for status, _, _ in findings} == {"failed"}
    assert {advice for _, _, advice in findings} == {"correct PENCHANT_API_KEYS", "correct PENCHANT_PORT"}
    assert SECRET not in repr(findings)


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"max_candidates": 5000}, "warning", "max_candidates is more than max_queued_texts"),
        ({"body_timeout_seconds": 90.0}, "warning", "body_timeout_seconds is more than request_timeout"),
        ({"api_key": "short"}, "warning", "fewer than 16 characters"),
        ({"api_key": SECRET, "api_keys": {"default": SECRET + "2"}}, "warning", "replaces the key"),
        ({"api_keys": {"a": SECRET, "b": SECRET}}, "failed", "two tenants have the same key"),
    ],
)
def test_contradictions_are_found(folder, given, status, said):
    [(how, detail, advice)] = bad(folder, "settings", **given)
    assert how == status
    assert said in detail
    assert advice
    assert SECRET not in detail + advice


def test_exposure_without_a_key_fails(folder):
    [(status, detail, advice)] = bad(folder, "exposure", host="0.0.0.0")
    assert status == "failed"
    assert "no key" in detail
    assert "penchant keys create" in advice
    assert bad(folder, "exposure", host="0.0.0.0", api_key=SECRET) == []
    [(status, _, _)] = bad(folder, "exposure", host="0.0.0.0", allow_open=True)
    assert status == "warning"


def test_a_key_in_the_store_is_enough(folder):
    made = CliRunner().invoke(
        app, ["keys", "create", "--tenant", "acme", "--scope", "rank", "--data-dir", str(folder)]
    )
    assert made.exit_code == 0, made.output
    assert bad(folder, "exposure", host="0.0.0.0") == []


def test_a_folder_open_to_everybody_is_told(folder):
    folder.chmod(0o755)
    assert [detail for _, detail, _ in bad(folder, "folder") if "open to every user" in detail]


def test_a_folder_that_cannot_be_written_fails(monkeypatch, folder):
    def refuse(**_where):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    [(status, detail, advice)] = found(folder, "folder")
    assert status == "failed"
    assert detail.endswith("cannot be written: Permission denied")
    assert f"uid {os.getuid()}" in advice


@pytest.mark.parametrize(("free", "status"), [(50 * 2**20, "failed"), (2**30, "warning"), (2**40, "ok")])
def test_free_disk_is_looked_at(monkeypatch, folder, free, status):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    [(how, detail, _)] = found(folder, "folder")
    assert how == status
    assert "GiB free" in detail


def test_a_damaged_file_fails(folder):
    path = folder / FILE_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rankings'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    [(status, _, advice)] = bad(folder, "store")
    assert status == "failed"
    assert "penchant restore" in advice


def test_what_is_no_database_fails(folder):
    (folder / FILE_NAME).write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    [(status, detail, _)] = bad(folder, "store")
    assert status == "failed"
    assert "not a database" in detail


@pytest.mark.parametrize(
    ("revision", "status", "said"),
    [
        ("r0001", "warning", "tables from r0001 to"),
        ("r9999", "failed", "(r9999) are unknown to this version"),
    ],
)
def test_other_tables_are_told_and_not_changed(folder, revision, status, said):
    with sqlite3.connect(folder / FILE_NAME) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
    connection.close()
    [(how, detail, _)] = bad(folder, "store")
    assert how == status
    assert said in detail
    with sqlite3.connect(folder / FILE_NAME) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)
    connection.close()


def test_it_tells_whether_a_server_runs(folder):
    assert "no server is running" in found(folder, "store")[0][1]
    database = Store(folder)
    assert "a server is running on it" in found(folder, "store")[0][1]
    database.close()


def test_an_event_from_the_future_is_told(client, clock, store):
    clock.now = checks.time.time() + 7200
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    assert client.post("/v1/feedback", json=vote).status_code == 200
    told = [f for f in examine(store.place) if f.check == "clock" and f.status == "warning"]
    assert ["2.0 h from now" in f.detail for f in told] == [True]


def test_postgresql_is_looked_at(postgres, tmp_path):
    url = postgres.new()
    [*risks, (status, detail, _)] = found(tmp_path, "store", store_url=url)
    assert status == "ok"
    assert "PostgreSQL 1" in detail
    assert {detail.split(": ")[1].split(" is off")[0] for _, detail, _ in risks} <= {
        "fsync",
        "full_page_writes",
    }


def test_a_database_that_is_not_there_fails_without_its_password(tmp_path):
    url = f"postgresql://penchant:{SECRET}@127.0.0.1:9/penchant"
    findings = found(tmp_path, store_url=url)
    [(_, detail, advice)] = [one for one in findings if one[0] == "failed"]
    assert "127.0.0.1:9/penchant" in detail
    assert "password" in advice
    assert SECRET not in repr(findings)


def test_a_file_beside_a_store_url_is_told(folder, postgres):
    [(status, detail, advice)] = bad(folder, "settings", store_url=postgres.new())
    assert status == "warning"
    assert "exists but is not used" in detail
    assert "penchant backup" in advice


def test_a_bundle_that_cannot_be_loaded_fails(monkeypatch, folder):
    def fail(_settings):
        raise StartError("The bundle cannot be loaded: its hash differs")

    monkeypatch.setattr(model, "load_bundle", fail)
    assert bad(folder, "bundle")[0][:2] == ("failed", "The bundle cannot be loaded: its hash differs")
    assert found(folder, "encoder") == []


def test_another_encoder_than_the_bundle_s_fails(monkeypatch, folder):
    other = FeatureExtractor(HashingEncoder(dim=EXTRACTOR.encoder.dim * 2))
    monkeypatch.setattr(model, "load_extractor", lambda _settings, _bundle: other)
    [(status, detail, advice)] = bad(folder, "encoder")
    assert status == "failed"
    assert "is another" in detail
    assert "PENCHANT_ENCODER" in advice


def test_an_encoder_that_fails_is_told_without_its_words(monkeypatch, folder):
    def fail(_texts, _prompts):
        raise RuntimeError(SECRET)

    monkeypatch.setattr(EXTRACTOR, "extract", fail, raising=False)
    [(status, detail, _)] = bad(folder, "encoder")
    assert (status, detail) == ("failed", "it cannot encode a text: RuntimeError")


def test_more_threads_than_cores_are_told(monkeypatch, folder, tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    monkeypatch.setattr(model, "_CGROUP", quota)
    monkeypatch.setattr(model.torch, "get_num_threads", lambda: 8)
    [(status, detail, advice)] = bad(folder, "threads")
    assert (status, detail) == ("warning", "8 threads on 0.5 cores")
    assert "OMP_NUM_THREADS=1" in advice


def test_a_clock_before_the_installation_fails(monkeypatch, folder):
    monkeypatch.setattr(checks.time, "time", lambda: 1_000_000_000.0)
    assert [status for status, detail, _ in found(folder, "clock") if "2001-09-09" in detail] == ["failed"]


def test_the_command_prints_lines_and_json_and_exits_by_what_it_found(folder, monkeypatch):
    monkeypatch.setenv("PENCHANT_API_KEY", SECRET)
    told = CliRunner().invoke(app, ["doctor", "--data-dir", str(folder)])
    assert told.exit_code == 0, told.output
    assert "ok      bundle" in told.output
    monkeypatch.setenv("PENCHANT_PORTS", "1")
    as_json = CliRunner().invoke(app, ["doctor", "--json", "--data-dir", str(folder)])
    assert as_json.exit_code == 0
    said = json.loads(as_json.output)
    assert said["ok"] is True
    assert {"check": "settings", "status": "warning"}.items() <= said["findings"][0].items()
    (folder / FILE_NAME).write_bytes(b"x" * 4096)
    failed = CliRunner().invoke(app, ["doctor", "--data-dir", str(folder)])
    assert failed.exit_code == 1
    assert "To do: restore a backup" in " ".join(failed.output.split())
    assert SECRET not in told.output + as_json.output + failed.output


@pytest.mark.slow
def test_the_shipped_model(folder, monkeypatch):
    monkeypatch.undo()
    findings = {f.check: f for f in examine({"data_dir": folder})}
    assert findings["bundle"].status == findings["encoder"].status == "ok"
    assert "one text in" in findings["encoder"].detail
