"""The installation: the wheel and the image contain what the checkout contains."""

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["package-dir"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and line[0] not in "# "]


def instructions(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def test_every_package_of_the_tree_is_listed() -> None:
    tops = {"clients/python": "penchant", "models": "penchant.models", "service": "penchant.service"}
    packages = {}
    for folder, name in tops.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder)
            packages[".".join((name, *inner.parts))] = init.parent.relative_to(ROOT).as_posix()
    assert packages == PACKAGES
    assert sorted(packages) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_the_client_contract_names_every_sdk_module() -> None:
    (contract,) = [
        c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["name"].startswith("clients/")
    ]
    sdk = ROOT / "clients/python"
    modules = {f"penchant.{path.stem}" for path in sdk.glob("*.py")} - {"penchant.__init__"} | {"penchant"}
    for init in sdk.glob("*/__init__.py"):
        modules |= {f"penchant.{init.parent.name}", f"penchant.{init.parent.name}.**"}
    assert set(contract["source_modules"]) == modules


def test_scripts_can_be_run() -> None:
    for script in [ROOT / ".ci/run", *(path for path in (ROOT / "scripts").iterdir() if not path.suffix)]:
        assert script.stat().st_mode & 0o111, script
        assert script.read_text("utf-8").startswith("#!/"), script
        if script.read_text("utf-8").startswith("#!/bin/sh"):
            subprocess.run(["sh", "-n", str(script)], check=True)


def test_the_image_installs_as_make_serve_does_and_what_replicas_need() -> None:
    serve = re.search(
        r"^serve:\n\t@scripts/install \$\(VENV\) (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.M
    )
    assert serve
    (build,) = [run for run in instructions("RUN") if "install /opt" in run]
    install, place, extras, mode = build.split()[-4:]
    assert (install, place, mode) == ("scripts/install", "/opt/penchant", "--copy")
    assert set(extras.split(",")) == {*serve[1].split(","), "postgres", "otel"}


def test_the_image_has_stages_a_user_and_a_health_check() -> None:
    assert len(instructions("FROM")) == 2
    assert "AS build" in instructions("FROM")[0]
    assert any(copy.startswith("--from=build /opt/penchant") for copy in instructions("COPY"))
    (user,) = instructions("USER")
    assert user not in {"root", "0"}
    (health,) = instructions("HEALTHCHECK")
    code = re.search(r'"-c", "([^"]*)"', health)
    assert code
    compile(code[1], "HEALTHCHECK", "exec")
    assert ".ready()" in code[1]
    assert instructions("ENTRYPOINT") == ['["penchant"]']


def test_the_docker_context_contains_what_the_image_copies() -> None:
    patterns = [
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"
    ]
    sources = [
        source for copy in instructions("COPY") if "--from" not in copy for source in copy.split()[:-1]
    ]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in patterns), source
    assert set(PACKAGES.values()) <= {p for p in PACKAGES.values() if any(p.startswith(s) for s in sources)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the files that the image is built from, because an installation leaves build files next to them."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ["pyproject.toml", "README.md", "clients/python", "models", "service", "scripts/install"]:
        source, target = ROOT / name, tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return tree


@pytest.mark.slow
def test_an_installation_without_extras_has_every_file_and_a_working_sdk(tree: Path, tmp_path: Path) -> None:
    """Installed without extras, the package has all files, a working SDK and a server that names its missing extras."""
    tops = {"clients/python": Path(), "models": Path("models"), "service": Path("service")}
    expected = {
        top / path.relative_to(tree / folder)
        for folder, top in tops.items()
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }
    venv = tmp_path / "venv"
    install = ["sh", str(tree / "scripts/install"), str(venv), "", "--copy"]
    subprocess.run(install, check=True, timeout=300, capture_output=True)

    code = "import penchant as p, importlib.util as u; print(u.find_spec('torch'), p.__file__, p.Client())"
    imported = subprocess.run([venv / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    torch, file, client = imported.stdout.split(maxsplit=2)
    assert torch == "None"
    assert client.startswith("<Client URL(")
    package = Path(file).parent
    installed = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    assert {path for path in installed if "__pycache__" not in path.parts} == expected

    served = subprocess.run([venv / "bin/penchant", "serve"], capture_output=True, text=True, check=False)
    assert served.returncode == 2
    assert "pip install 'penchant[server,cpu]'" in served.stderr
    assert "Traceback" not in served.stderr
