"""The house holds: folders small enough to keep in mind, their files named over the door, bans that forget nobody."""

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
    if "migrations" not in init.parent.parts  # which Alembic arranges
)
MOST_FILES = 20


def children(folder: Path) -> set[str]:
    """Modules and packages in a folder."""
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return modules | {path.name for path in folder.iterdir() if (path / "__init__.py").exists()}


def contract(start: str) -> dict:
    (found,) = [one for one in CONTRACTS if one["name"].startswith(start)]
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_folder_holds_few_files_and_names_them_in_reading_order(folder):
    assert len(list(folder.glob("[!_]*.py"))) <= MOST_FILES
    door = (folder / "__init__.py").read_text("utf-8")
    assert re.match(r'"""[^\n]+\.\n\nIn reading order:\n\n(- `\w+`: [^\n]+\n)+"""\n', door)
    named = re.findall(r"^- `(\w+)`: ", door, re.MULTILINE)
    assert sorted(named) == sorted(children(folder))


def test_the_ban_on_http_names_every_folder_but_those_on_the_wire():
    """FastAPI and Starlette are for the wire, and for what guards and watches it."""
    may = {"access", "api", "app", "errors", "telemetry"}
    expected = {f"penchant.service.{name}" for name in children(ROOT / "service") - may} | {"penchant.models"}
    assert set(contract("HTTP")["source_modules"]) == expected


@pytest.mark.parametrize("top", ["models", "service"])
def test_every_room_is_on_a_floor(top):
    """The linter checks that too; here it is seen that nothing was excused from it."""
    floors = contract(f"{top}/: one way")
    assert floors["exhaustive"]
    assert not {"ignore_imports", "exhaustive_ignores"} & set(floors)
    rooms = [room.strip() for floor in floors["layers"] for room in floor.split("|")]
    assert sorted(rooms) == sorted(children(ROOT / top))


def test_the_architecture_page_shows_the_house_as_it_is():
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
