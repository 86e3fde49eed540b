"""The layout of the code: small folders whose `__init__.py` lists their modules, and complete import contracts."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
FOLDERS = sorted(
    init.parent
    for top in ("models", "service")
    for init in (ROOT / top).rglob("__init__.py")
    if "migrations" not in init.parent.parts  # Alembic prescribes its layout
)
MOST_FILES = 20


def children(folder: Path) -> set[str]:
    """Return the names of the modules and packages in a folder."""
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return modules | {path.name for path in folder.iterdir() if (path / "__init__.py").exists()}


def contract(start: str) -> dict:
    (match,) = [entry for entry in CONTRACTS if entry["name"].startswith(start)]
    return match


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_folder_has_few_modules_and_lists_them_in_reading_order(folder):
    assert len(list(folder.glob("[!_]*.py"))) <= MOST_FILES
    init = (folder / "__init__.py").read_text("utf-8")
    assert re.match(r'"""[^\n]+\.\n\nIn reading order:\n\n(- `\w+`: [^\n]+\n)+"""\n', init)
    named = re.findall(r"^- `(\w+)`: ", init, re.MULTILINE)
    assert sorted(named) == sorted(children(folder))


def test_the_http_contract_names_every_folder_without_http():
    """Only the HTTP interface, its access control and its telemetry may import FastAPI and Starlette."""
    allowed = {"access", "api", "app", "errors", "telemetry"}
    expected = {f"penchant.service.{name}" for name in children(ROOT / "service") - allowed} | {
        "penchant.models"
    }
    assert set(contract("HTTP")["source_modules"]) == expected


@pytest.mark.parametrize("top", ["models", "service"])
def test_every_folder_is_in_a_layer(top):
    """The linter checks this too. This test also checks that the contract has no exemptions."""
    floors = contract(f"{top}/: one way")
    assert floors["exhaustive"]
    assert not {"ignore_imports", "exhaustive_ignores"} & set(floors)
    rooms = [room.strip() for floor in floors["layers"] for room in floor.split("|")]
    assert sorted(rooms) == sorted(children(ROOT / top))


def test_the_architecture_page_matches_the_code():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:models|service|clients|tests|docs)/[\w/.]*)`", page))
    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    for top in ("models", "service"):
        rows = re.findall(
            r"^\| `(\w+)/` \|", page.partition(f"| folder of `{top}/` |")[2].partition("\n\n")[0], re.M
        )
        folders = {path.name for path in (ROOT / top).iterdir() if (path / "__init__.py").exists()}
        assert set(rows) == folders
        drawn = re.search(rf"^{top}: +(.+\n(?: +> .+\n)*)", page, re.M)
        floors = [
            [room.strip() for room in floor.split("|")] for floor in " ".join(drawn[1].split()).split(" > ")
        ]
        assert floors == [
            [room.strip() for room in floor.split("|")] for floor in contract(f"{top}/: one")["layers"]
        ]
