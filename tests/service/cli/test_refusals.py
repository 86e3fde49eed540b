"""What an operator can correct ends every command with one line on stderr, and never with a traceback."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from penchant.service.claims import StartError, bind
from penchant.service.cli.main import main
from penchant.service.store.database import FILE_NAME, Store

MAIN = "from penchant.service.cli.main import main; main()"
# Prints afterwards whether torch was imported.
WATCHED = f"""
import sys
try:
    {MAIN.replace("; ", chr(10) + "    ")}
finally:
    print("torch" if "torch" in sys.modules else "no torch")
"""
DEAD_URL = "postgresql://penchant:swordfish@127.0.0.1:9/penchant"


def run(*arguments: object, script: str = MAIN, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENCHANT_")}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def find_refusal(*arguments: object, **environment: str) -> str:
    """Run a command that must refuse with one line, and return the line."""
    done = run(*arguments, **environment)
    assert done.returncode in (1, 2), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("penchant: ")
    assert "swordfish" not in done.stderr
    return lines[0]


Break = Callable[[Path], None]


def change(statement: str) -> Break:
    def apply(folder: Path) -> None:
        with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
            connection.execute(statement)
            connection.commit()

    return apply


def write_garbage(folder: Path) -> None:
    for path in folder.glob(FILE_NAME + "*"):
        path.unlink()
    (folder / FILE_NAME).write_bytes(b"no database at all, but long enough to be taken for one" * 40)


BROKEN = {
    "is not a database": write_garbage,
    "but not their revision": change("DROP TABLE alembic_version"),
    "holds tables": change("DELETE FROM alembic_version"),
    "a newer one wrote them": change("UPDATE alembic_version SET version_num = 'r9999'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("message", BROKEN)
def test_a_store_that_serve_refuses_fails_the_doctor(tmp_path: Path, message: str) -> None:
    """Both name the same reason in one line, before torch is imported, and change nothing."""
    folder = tmp_path / "data"
    Store(folder).close()
    BROKEN[message](folder)
    before = (folder / FILE_NAME).read_bytes()
    assert message in find_refusal("serve", "--port", 0, "--data-dir", folder)
    checked = run("doctor", "--no-model", "--data-dir", folder, script=WATCHED)
    assert checked.returncode == 1
    assert checked.stderr == ""
    [failed] = [line for line in checked.stdout.splitlines() if line.startswith("failed")]
    assert message in failed
    assert "To do: " in failed
    assert checked.stdout.splitlines()[-1] == "no torch"
    assert (folder / FILE_NAME).read_bytes() == before


@pytest.mark.slow
def test_an_empty_file_is_a_new_store_for_both(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / FILE_NAME).touch()
    checked = run("doctor", "--no-model", "--data-dir", tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert "the file is empty" in checked.stdout
    Store(tmp_path).close()


@pytest.mark.slow
def test_serve_says_at_once_what_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        done = run("serve", "--port", port, "--data-dir", tmp_path / "new", script=WATCHED)
    assert done.stderr == f"penchant: port {port} is in use: stop the other process, or set PENCHANT_PORT\n"
    assert done.stdout == "no torch\n"
    assert not (tmp_path / "new").exists()
    other = Store(tmp_path)
    done = run("serve", "--port", 0, "--data-dir", tmp_path, script=WATCHED)
    assert done.stderr == f"penchant: Another server uses the data folder {tmp_path}.\n"
    assert done.stdout == "no torch\n"
    other.close()


def invoke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str]:
    """Run a command in this process as the entry point does, and return its status and what it wrote to stderr."""
    monkeypatch.setattr(sys, "argv", ["penchant", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "--port", 0, "--host", "no.such.host.invalid"), "set PENCHANT_API_KEY"),
        (("serve", "--port", 0, "--data-dir", "file"), "file cannot be used: "),
        (("serve", "--port", 0, "--data-dir", "file/below"), "file/below cannot be used: "),
        (("serve", "--port", 70_000), "settings: port: "),
        (("keys", "list", "--store-url", DEAD_URL), "cannot be opened: "),
        (("keys", "list", "--store-url", DEAD_URL.replace(":9/", ":nine/")), "is not an address: "),
        (("keys", "list", "--store-url", "mysql://penchant:swordfish@host/db"), "must start with postgresql"),
        (
            ("keys", "create", "--tenant", "t", "--scope", "rank", "--data-dir", "file"),
            "file cannot be used: ",
        ),
        (("backup", "no/such/folder.zip", "--data-dir", "store"), "No such file"),
        (("backup", "out.zip", "--data-dir", "missing"), "holds no store"),
        (("restore", "missing.zip"), "No such file"),
        (("restore", "file", "--data-dir", "other"), "not an archive"),
        (("replay", "--data-dir", "store", "--bundle", "missing"), "missing"),
        (("export", "--judgements", "--out", "out", "--data-dir", "broken"), "not a database"),
        (("bundle", "show", "missing"), "missing"),
        (("bundle", "show", "file"), "file"),
        (("upgrade", "missing", "--data-dir", "store"), "missing"),
        (("evaluate", "missing.jsonl", "--split", "cold"), "missing.jsonl"),
        (("demo", "--base-url", "http://127.0.0.1:9"), "Is a server running?"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    Store(tmp_path / "store").close()
    (tmp_path / "broken").mkdir()
    write_garbage(tmp_path / "broken")
    status, errors = invoke(monkeypatch, capsys, *arguments)
    assert status in (1, 2), errors
    assert "swordfish" not in errors
    problems = [line for line in errors.splitlines() if line.startswith("penchant: ")]
    assert len(problems) == 1, errors
    assert message in errors


@pytest.mark.slow
def test_an_environment_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    refused = find_refusal("keys", "list", PENCHANT_API_KEYS='{"swordfish')
    assert refused == "penchant: settings: api_keys: the value is not valid JSON"
    checked = run("doctor", "--no-model", PENCHANT_API_KEYS='{"swordfish')
    assert checked.returncode == 1
    assert "correct PENCHANT_API_KEYS" in checked.stdout
    assert checked.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "problem", "advice"),
    [
        ({}, "the store does not hold the bundle b-lost", "penchant rollback"),
        ({"PENCHANT_BUNDLE": "no/such/bundle"}, "no/such/bundle", "choose another PENCHANT_BUNDLE"),
    ],
)
def test_a_bundle_that_is_missing_fails_both(
    tmp_path: Path, environment: dict[str, str], problem: str, advice: str
) -> None:
    Store(tmp_path).close()
    change("INSERT INTO activations VALUES ('', 1, 'b-lost', 1.0)")(tmp_path)
    done = run("serve", "--port", 0, "--data-dir", tmp_path, **environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert problem in done.stderr.splitlines()[-1]
    checked = run("doctor", "--data-dir", tmp_path, **environment)
    assert checked.returncode == 1
    assert problem in checked.stdout
    assert advice in checked.stdout


class Interruption:
    """Presses Ctrl-C while a module is imported."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.name:
            raise KeyboardInterrupt


@pytest.mark.parametrize("module", ["penchant.service.cli.app", "penchant.service.store.database"])
def test_an_interrupted_command_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, module: str
) -> None:
    """Whether the command line is still being imported, or the command has begun."""
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Interruption(module), *sys.meta_path])
    status, errors = invoke(monkeypatch, capsys, "keys", "list", "--data-dir", tmp_path)
    assert status in (1, 130)
    assert "Traceback" not in errors


def test_ports_are_bound_and_do_not_listen() -> None:
    [bound] = bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    bound.listen()
    with pytest.raises(StartError, match=f"port {port} is in use"):
        bind("localhost", port)
    bound.close()
    for again in bind("localhost", port):
        again.close()


def test_a_host_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(StartError, match="cannot be listened on"):
        bind("192.0.2.1", 0)
