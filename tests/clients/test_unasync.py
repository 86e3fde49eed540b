"""scripts/unasync.py: the committed synchronous half is what it generates, and it finds every difference."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "unasync.py"
SDK = ROOT / "clients" / "python"

spec = importlib.util.spec_from_file_location("unasync", SCRIPT)
assert spec is not None
assert spec.loader is not None
unasync = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unasync)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of both halves."""
    for half in ("_async", "_sync"):
        shutil.copytree(SDK / half, tmp_path / half, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_synchronous_half_is_up_to_date() -> None:
    completed = run("--check")
    assert completed.returncode == 0, completed.stdout + completed.stderr


def edit_line(package: Path) -> None:
    path = package / "_sync" / "client.py"
    path.write_text(path.read_text("utf-8").replace("top_n=top_n", "top_n=None"), "utf-8")


def cut_off_end(package: Path) -> None:
    path = package / "_sync" / "users.py"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:-1]), "utf-8")


def delete_file(package: Path) -> None:
    (package / "_sync" / "pages.py").unlink()


def add_file(package: Path) -> None:
    (package / "_sync" / "extra.py").touch()


def edit_source(package: Path) -> None:
    path = package / "_async" / "transport.py"
    path.write_text(path.read_text("utf-8").replace("attempt = 0", "attempt = 1"), "utf-8")


@pytest.mark.parametrize("plant", [edit_line, cut_off_end, delete_file, add_file, edit_source])
def test_check_fails_on_a_difference_and_a_run_repairs_it(
    package: Path, plant: Callable[[Path], None]
) -> None:
    plant(package)
    before = unasync.read_current(package)
    completed = run("--check", package)
    assert completed.returncode == 1
    assert "out of date. Run scripts/unasync.py" in completed.stderr
    assert unasync.read_current(package) == before  # a check writes nothing
    assert run(package).returncode == 0
    assert run("--check", package).returncode == 0


def test_the_diff_names_the_file_and_the_line(package: Path) -> None:
    edit_line(package)
    output = run("--check", package).stdout
    assert "+++ _sync/client.py (generated)" in output
    assert "-                top_n=None,\n+                top_n=top_n,\n" in output


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async def f(): await g()", "def f(): g()"),
        ("async with AsyncClient() as c: pass", "with Client() as c: pass"),
        ("async for x in AsyncPage(): pass", "for x in Page(): pass"),
        ("f: Callable[[str], Awaitable[dict[str, int]]]", "f: Callable[[str], dict[str, int]]"),
        ('f: Awaitable["AsyncPage[R]"]', 'f: "Page[R]"'),
        ("from penchant._async.pages import AsyncPage", "from penchant._sync.pages import Page"),
        ("import asyncio\nsleep = asyncio.sleep", "import time\nsleep = time.sleep"),
        ("await http.aclose()  # `AsyncClient.close`", "http.close()  # `Client.close`"),
        ('"""``async with``, `await client.ready()`."""', '"""``with``, `client.ready()`."""'),
        ("awaited = not_async = Asynchrony", "awaited = not_async = Asynchrony"),
    ],
)
def test_translation(source: str, expected: str) -> None:
    assert unasync.Translator().translate(source) == expected


def test_a_rule_that_nothing_uses_is_reported() -> None:
    translator = unasync.Translator()
    translator.translate("import asyncio\n")
    with pytest.raises(unasync.UnusedRuleError, match="'aclose'"):
        translator.check_all_used()


def test_no_asynchronous_word_is_left() -> None:
    for name, content in unasync.read_current(SDK).items():
        code = content.replace(unasync.HEADER.format(name=name), "")
        leftovers = [line for line in code.splitlines() if "async" in line.lower() or "await" in line.lower()]
        allowed = ["generates it from the asynchronous half."] if name == "__init__.py" else []
        assert len(leftovers) == len(allowed), leftovers
