"""What the package shows: one sorted list, the same in both clients, and nothing heavy behind it."""

import ast
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import penchant
from penchant import AsyncClient, Client, errors
from penchant._async_client import AsyncUsers
from penchant._client import Users

LIGHT = Path(penchant.__file__).parent


def public(cls: type) -> list[str]:
    return sorted(name for name in dir(cls) if not name.startswith("_"))


def test_all_is_sorted_and_complete() -> None:
    assert penchant.__all__ == sorted(penchant.__all__)
    shown = {
        name
        for name, value in vars(penchant).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert shown == set(penchant.__all__)
    assert set(errors.__all__) <= shown


def test_every_module_lists_what_it_shows() -> None:
    for path in sorted(LIGHT.glob("*.py")):
        if path.stem in {"__init__", "_constants"}:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        assigned = [
            n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
        ]
        listed = ast.literal_eval(assigned[0].value)
        assert listed == sorted(set(listed), key=lambda n: (not n.isupper(), n[0].islower(), n)), path.name


@pytest.mark.parametrize(("sync", "awaited"), [(Client, AsyncClient), (Users, AsyncUsers)])
def test_both_clients_have_the_same_methods(sync: type, awaited: type) -> None:
    assert public(sync) == public(awaited)
    for name in public(sync):
        one, other = inspect.getattr_static(sync, name), inspect.getattr_static(awaited, name)
        if isinstance(one, property):
            continue
        assert inspect.signature(one).parameters == inspect.signature(other).parameters, name
        returned = str(inspect.signature(other).return_annotation)
        assert returned.replace("AsyncPage", "Page") == str(inspect.signature(one).return_annotation), name


@pytest.mark.parametrize("cls", [Client, AsyncClient, Users, AsyncUsers])
def test_methods_take_keywords_only(cls: type) -> None:
    for name in public(cls):
        method = inspect.getattr_static(cls, name)
        if not inspect.isfunction(method) or name == "for_user":
            continue
        kinds = {p.kind for p in list(inspect.signature(method).parameters.values())[1:]}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}, name


def test_the_tree_drawn_in_errors_is_the_tree() -> None:
    drawn = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.strip(" │├└─").split(" ")[0]
        if name not in errors.__all__:
            continue
        depth = (line.index(name) - 4) // 3
        parents[depth:] = [name]
        drawn[name] = parents[depth - 1] if depth else "Exception"
    actual = {name: getattr(errors, name).__base__.__name__ for name in errors.__all__}
    assert drawn == actual


def test_a_status_error_survives_a_process_border() -> None:
    error = errors.RateLimitError("429 slow down", status=429, code="rate_limited", retry_after_s=3.0)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is errors.RateLimitError
    assert (str(twin), twin.status, twin.code, twin.retry_after_s) == (str(error), 429, "rate_limited", 3.0)


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "fastapi", "starlette", "sqlalchemy", "transformers", "penchant.models"]
    heavy += ["langchain_core", "llama_index", "penchant.service"]
    code = f"import sys, penchant; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
