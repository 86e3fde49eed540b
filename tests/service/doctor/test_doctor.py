"""`penchant doctor` finds, names and advises on every problem. It reveals no secret and changes nothing."""

import json
import os
import socket
import sqlite3
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.claims import StartError
from penchant.service.cli.app import app
from penchant.service.doctor import checks, model
from penchant.service.doctor.checks import examine
from penchant.service.store.database import FILE_NAME, Store

SECRET = "swordfish-swordfish"
EXTRACTOR = FeatureExtractor(HashingEncoder())


@pytest.fixture(autouse=True)
def _use_light_model(monkeypatch):
    """Uses a bundle and an encoder without weights. test_the_shipped_model_passes tests the real ones."""
    monkeypatch.setattr(model, "load_bundle", lambda _settings: tiny_bundle(EXTRACTOR))
    monkeypatch.setattr(model, "load_extractor", lambda _settings, _bundle: EXTRACTOR)


def list_findings(folder, check=None, **overrides):
    """Return (status, detail, advice) of every finding, of one check or of all checks."""
    findings = examine({"data_dir": folder} | overrides)
    return [(f.status, f.detail, f.advice) for f in findings if check in (None, f.check)]


def list_problems(folder, check=None, **overrides):
    return [finding for finding in list_findings(folder, check, **overrides) if finding[0] != "ok"]


@pytest.fixture
def folder(tmp_path):
    """Data folder with a store as a stopped server leaves it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    Store(folder).close()
    return folder


def test_an_ordinary_store_passes_all_checks(folder):
    findings = list(examine({"data_dir": folder}))
    assert [f for f in findings if f.status != "ok" and f.check not in ("threads", "folder", "port")] == []
    checks = [f.check for f in findings]
    order = [
        "settings",
        "folder",
        "exposure",
        "store",
        "port",
        "clock",
        "bundle",
        "encoder",
        "neighbours",
        "threads",
    ]
    assert list(dict.fromkeys(checks)) == order


def test_a_missing_store_is_no_problem_and_is_not_created(tmp_path):
    [(status, detail, _)] = list_findings(tmp_path / "new", "store")
    assert status == "ok"
    assert "first start creates it" in detail
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PENCHANT_MAX_CANDIDATE", "did you mean PENCHANT_MAX_CANDIDATES?"),
        ("PENCHANT_STORE_UR", "did you mean PENCHANT_STORE_URL?"),
        ("PENCHANT_PERSONALISATION", "did you mean PENCHANT_PERSONALIZATION?"),
        ("PENCHANT_XYZZY", "unset it"),
    ],
)
def test_unknown_settings_are_named(monkeypatch, folder, name, meant):
    monkeypatch.setenv(name, SECRET)
    assert list_problems(folder, "settings") == [
        ("warning", f"{name} is not a setting and has no effect", meant)
    ]


def test_settings_of_the_sdk_are_accepted(monkeypatch, folder):
    monkeypatch.setenv("PENCHANT_BASE_URL", "http://x")
    assert list_problems(folder, "settings") == []


def test_an_invalid_value_is_reported_by_name_without_the_value(monkeypatch, folder):
    monkeypatch.setenv("PENCHANT_API_KEYS", json.dumps({"t": " ", "u": SECRET}))
    monkeypatch.setenv("PENCHANT_PORT", "99999")
    findings = list_problems(folder)
    assert {status for status, _, _ in findings} == {"failed"}
    assert {advice for _, _, advice in findings} == {"correct PENCHANT_API_KEYS", "correct PENCHANT_PORT"}
    assert SECRET not in repr(findings)


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        ({"max_candidates": 5000}, "warning", "max_candidates is more than max_queued_texts"),
        ({"body_timeout_seconds": 90.0}, "warning", "body_timeout_seconds is more than request_timeout"),
        ({"api_key": "short"}, "warning", "fewer than 16 characters"),
        ({"api_key": SECRET, "api_keys": {"default": SECRET + "2"}}, "warning", "replaces the key"),
        ({"api_keys": {"a": SECRET, "b": SECRET}}, "failed", "two tenants have the same key"),
    ],
)
def test_contradictory_settings_are_reported(folder, overrides, status, message):
    [(actual, detail, advice)] = list_problems(folder, "settings", **overrides)
    assert actual == status
    assert message in detail
    assert advice
    assert SECRET not in detail + advice


def test_exposure_without_a_key_fails(folder):
    [(status, detail, advice)] = list_problems(folder, "exposure", host="0.0.0.0")
    assert status == "failed"
    assert "no key" in detail
    assert "penchant keys create" in advice
    assert list_problems(folder, "exposure", host="0.0.0.0", api_key=SECRET) == []
    [(status, _, _)] = list_problems(folder, "exposure", host="0.0.0.0", allow_open=True)
    assert status == "warning"


def test_a_key_in_the_store_is_enough(folder):
    made = CliRunner().invoke(
        app, ["keys", "create", "--tenant", "acme", "--scope", "rank", "--data-dir", str(folder)]
    )
    assert made.exit_code == 0, made.output
    assert list_problems(folder, "exposure", host="0.0.0.0") == []


def test_a_world_readable_folder_is_reported(folder):
    folder.chmod(0o755)
    assert [detail for _, detail, _ in list_problems(folder, "folder") if "open to every user" in detail]


def test_a_folder_that_cannot_be_written_fails(monkeypatch, folder):
    def refuse(**_where):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    [(status, detail, advice)] = list_findings(folder, "folder")
    assert status == "failed"
    assert detail.endswith("cannot be written: Permission denied")
    assert f"uid {os.getuid()}" in advice


@pytest.mark.parametrize(("free", "status"), [(50 * 2**20, "failed"), (2**30, "warning"), (2**40, "ok")])
def test_free_disk_space_is_checked(monkeypatch, folder, free, status):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    [(actual, detail, _)] = list_findings(folder, "folder")
    assert actual == status
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
    [(status, _, advice)] = list_problems(folder, "store")
    assert status == "failed"
    assert "penchant restore" in advice


def test_a_file_that_is_no_database_fails(folder):
    (folder / FILE_NAME).write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    [(status, detail, _)] = list_problems(folder, "store")
    assert status == "failed"
    assert "not a database" in detail


@pytest.mark.parametrize(
    ("revision", "status", "message"),
    [
        ("r0001", "warning", "tables from r0001 to"),
        ("r9999", "failed", "(r9999) are unknown to this version"),
    ],
)
def test_other_tables_are_reported_and_not_changed(folder, revision, status, message):
    with sqlite3.connect(folder / FILE_NAME) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
    connection.close()
    [(actual, detail, _)] = list_problems(folder, "store")
    assert actual == status
    assert message in detail
    with sqlite3.connect(folder / FILE_NAME) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)
    connection.close()


def test_a_running_server_is_reported(folder):
    assert "no server is running" in list_findings(folder, "store")[0][1]
    database = Store(folder)
    assert "a server is running on it" in list_findings(folder, "store")[0][1]
    database.close()


def test_an_event_from_the_future_is_reported(serve, clock, store):
    clock.now = checks.time.time() + 7200
    client = serve()
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    assert client.post("/v1/feedback", json=vote).status_code == 200
    output = [f for f in examine(store.place) if f.check == "clock" and f.status == "warning"]
    assert ["2.0 h from now" in f.detail for f in output] == [True]


def test_postgresql_is_checked(postgres, tmp_path):
    url = postgres.new()
    [*risks, (status, detail, _)] = list_findings(tmp_path, "store", store_url=url)
    assert status == "ok"
    assert "PostgreSQL 1" in detail
    assert {detail.split(": ")[1].split(" is off")[0] for _, detail, _ in risks} <= {
        "fsync",
        "full_page_writes",
    }


def test_a_missing_database_fails_without_revealing_its_password(tmp_path):
    url = f"postgresql://penchant:{SECRET}@127.0.0.1:9/penchant"
    findings = list_findings(tmp_path, store_url=url)
    [(_, detail, advice)] = [finding for finding in findings if finding[0] == "failed"]
    assert "127.0.0.1:9/penchant" in detail
    assert "password" in advice
    assert SECRET not in repr(findings)


def test_a_file_next_to_a_store_url_is_reported(folder, postgres):
    [(status, detail, advice)] = list_problems(folder, "settings", store_url=postgres.new())
    assert status == "warning"
    assert "exists but is not used" in detail
    assert "penchant backup" in advice


def test_a_bundle_that_cannot_be_loaded_fails(monkeypatch, folder):
    def fail(_settings):
        raise StartError("The bundle cannot be loaded: its hash differs")

    monkeypatch.setattr(model, "load_bundle", fail)
    assert list_problems(folder, "bundle")[0][:2] == (
        "failed",
        "The bundle cannot be loaded: its hash differs",
    )
    assert list_findings(folder, "encoder") == []


def test_an_encoder_that_does_not_match_the_bundle_fails(monkeypatch, folder):
    other = FeatureExtractor(HashingEncoder(dim=EXTRACTOR.encoder.dim * 2))
    monkeypatch.setattr(model, "load_extractor", lambda _settings, _bundle: other)
    [(status, detail, advice)] = list_problems(folder, "encoder")
    assert status == "failed"
    assert "is another" in detail
    assert "PENCHANT_ENCODER" in advice


@pytest.fixture
def reads_prompts(monkeypatch):
    monkeypatch.setattr(model, "load_bundle", lambda _settings: tiny_bundle(EXTRACTOR, match=True))


def test_the_relevance_model_is_loaded_and_timed(reads_prompts, folder, classifier):
    [(_, detail, _)] = list_findings(folder, "relevance", relevance_model=str(classifier))
    assert str(classifier) in detail
    assert "a right answer has" in detail
    assert list_findings(folder, "relevance") == []


def test_a_relevance_model_without_a_head_fails(reads_prompts, folder):
    [(status, detail, advice)] = list_problems(folder, "relevance", relevance_model="embedded")
    assert status == "failed"
    assert "lacks these weights: classifier.bias, classifier.weight" in detail
    assert "PENCHANT_RELEVANCE_MODEL" in advice


def test_a_relevance_model_needs_a_bundle_that_reads_prompts(folder, classifier):
    [(status, detail, _)] = list_problems(folder, "relevance", relevance_model=str(classifier))
    assert status == "failed"
    assert "needs a bundle that reads prompts, and tiny (b-" in detail


@pytest.mark.parametrize(("scores", "status"), [((2.0, -1.0), "ok"), ((-1.0, 2.0), "warning")])
def test_a_relevance_model_that_prefers_wrong_answers_is_reported(
    monkeypatch, reads_prompts, folder, classifier, scores, status
):
    scorer = SimpleNamespace(score=lambda _prompts, _texts: np.array(scores, np.float32))
    monkeypatch.setattr(model, "load_relevance_model", lambda _settings: scorer)
    [(found, detail, advice)] = list_findings(folder, "relevance", relevance_model=str(classifier))
    assert found == status
    assert f"a right answer has {scores[0]:.2f}, a wrong one {scores[1]:.2f}" in detail
    assert ("prefers the wrong answer" in advice) == (status == "warning")


def test_a_scale_without_a_relevance_model_is_reported(folder):
    [(status, detail, _)] = list_problems(folder, "settings", relevance_weight=2.0, relevance_std=3.0)
    assert status == "warning"
    assert "relevance_std, relevance_weight" in detail
    assert "no effect without relevance_model" in detail


def test_a_failing_encoder_is_reported_without_its_message(monkeypatch, folder):
    def fail(_texts, _prompts):
        raise RuntimeError(SECRET)

    monkeypatch.setattr(EXTRACTOR, "extract", fail, raising=False)
    [(status, detail, _)] = list_problems(folder, "encoder")
    assert (status, detail) == ("failed", "it cannot encode a text: RuntimeError")


def test_more_threads_than_cores_are_reported(monkeypatch, folder, tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    monkeypatch.setattr(model, "_CGROUP", quota)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 8))
    [(status, detail, advice)] = list_problems(folder, "threads")
    assert (status, detail) == ("warning", "8 threads on 0.5 cores")
    assert "OMP_NUM_THREADS=1" in advice
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert list_problems(folder, "threads")[0][1] == "3 threads on 0.5 cores"


def test_a_port_in_use_is_reported(folder):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        [(status, detail, advice)] = list_findings(folder, "port", port=port)
        assert (status, detail) == ("failed", f"port {port} is in use")
        assert "PENCHANT_PORT" in advice
        running = Store(folder)
        [(status, detail, _)] = list_findings(folder, "port", port=port)
        assert (status, "a server is running" in detail) == ("ok", True)
        running.close()


def test_a_clock_that_the_store_contradicts_is_reported(folder, monkeypatch):
    database = Store(folder)
    with database.writing() as connection:
        database.expiry_clock.now(connection)
        database.expiry_clock.record(connection)
    database.close()
    assert list_problems(folder, "clock") == []
    now = checks.time.time()
    monkeypatch.setattr(checks.time, "time", lambda: now + 400 * 86_400)
    [(status, detail, advice)] = list_problems(folder, "clock")
    assert status == "warning"
    assert "the clock is 400.0 days ahead of the last write of the store" in detail
    assert "after servers have run for 24 hours more (PENCHANT_EXPIRY_GRACE_HOURS)" in advice


def test_a_data_folder_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    [(status, detail, _)] = list_findings(tmp_path / "file" / "data", "folder")
    assert (status, detail) == ("failed", f"{tmp_path / 'file'} cannot be written: Not a directory")


def test_a_clock_before_the_installation_fails(monkeypatch, folder):
    monkeypatch.setattr(checks.time, "time", lambda: 1_000_000_000.0)
    assert [status for status, detail, _ in list_findings(folder, "clock") if "2001-09-09" in detail] == [
        "failed"
    ]


def test_the_command_prints_lines_or_json_and_its_exit_code_reflects_the_findings(folder, monkeypatch):
    monkeypatch.setenv("PENCHANT_API_KEY", SECRET)
    output = CliRunner().invoke(app, ["doctor", "--data-dir", str(folder)])
    assert output.exit_code == 0, output.output
    assert "ok      bundle" in output.output
    monkeypatch.setenv("PENCHANT_PORTS", "1")
    as_json = CliRunner().invoke(app, ["doctor", "--json", "--data-dir", str(folder)])
    assert as_json.exit_code == 0
    message = json.loads(as_json.output)
    assert message["ok"] is True
    assert {"check": "settings", "status": "warning"}.items() <= message["findings"][0].items()
    (folder / FILE_NAME).write_bytes(b"x" * 4096)
    failed = CliRunner().invoke(app, ["doctor", "--data-dir", str(folder)])
    assert failed.exit_code == 1
    assert "To do: restore a backup" in " ".join(failed.output.split())
    assert SECRET not in output.output + as_json.output + failed.output


@pytest.mark.slow
def test_the_shipped_model_passes(folder, monkeypatch):
    monkeypatch.undo()
    findings = {f.check: f for f in examine({"data_dir": folder})}
    assert findings["bundle"].status == findings["encoder"].status == "ok"
    assert "one text in" in findings["encoder"].detail
