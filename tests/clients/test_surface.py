"""The public names of the package: sorted, complete, equal in both clients, and light to import."""

import ast
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import penchant
from penchant import AsyncClient, Client, errors
from penchant._async.users import AsyncUsers
from penchant._sync.users import Users

PACKAGE = Path(penchant.__file__).parent


def list_public(cls: type) -> list[str]:
    return sorted(name for name in dir(cls) if not name.startswith("_"))


def test_all_is_sorted_and_complete() -> None:
    assert penchant.__all__ == sorted(penchant.__all__)
    public = {
        name
        for name, value in vars(penchant).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(penchant.__all__)
    assert set(errors.__all__) <= public


def test_every_module_lists_its_public_names() -> None:
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("_async/*.py"), *PACKAGE.glob("_sync/*.py")]
    for path in sorted(path for path in files if path.stem != "__init__"):
        tree = ast.parse(path.read_text("utf-8"))
        assigned = [
            n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
        ]
        listed = ast.literal_eval(assigned[0].value)
        assert listed == sorted(set(listed), key=lambda n: (not n.isupper(), n[0].islower(), n)), path.name


@pytest.mark.parametrize(("synchronous", "asynchronous"), [(Client, AsyncClient), (Users, AsyncUsers)])
def test_both_clients_have_the_same_methods(synchronous: type, asynchronous: type) -> None:
    assert list_public(synchronous) == list_public(asynchronous)
    for name in list_public(synchronous):
        method, async_method = (
            inspect.getattr_static(synchronous, name),
            inspect.getattr_static(asynchronous, name),
        )
        if isinstance(method, property):
            continue
        assert inspect.signature(method).parameters == inspect.signature(async_method).parameters, name
        returned = str(inspect.signature(method).return_annotation)
        async_returned = str(inspect.signature(async_method).return_annotation)
        assert async_returned.replace("_async.pages.AsyncPage", "_sync.pages.Page") == returned, name


@pytest.mark.parametrize("cls", [Client, AsyncClient, Users, AsyncUsers])
def test_methods_take_keywords_only(cls: type) -> None:
    for name in list_public(cls):
        method = inspect.getattr_static(cls, name)
        if not inspect.isfunction(method) or name == "for_user":
            continue
        kinds = {p.kind for p in list(inspect.signature(method).parameters.values())[1:]}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}, name


def test_the_tree_in_the_docstring_of_errors_is_the_class_tree() -> None:
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


def test_a_status_error_can_be_pickled() -> None:
    error = errors.RateLimitError("429 slow down", status=429, code="rate_limited", retry_after_s=3.0)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.RateLimitError
    assert (str(copy), copy.status, copy.code, copy.retry_after_s) == (str(error), 429, "rate_limited", 3.0)


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "fastapi", "starlette", "sqlalchemy", "transformers", "penchant.models"]
    heavy += ["langchain_core", "llama_index", "penchant.service"]
    code = f"import sys, penchant; print([m for m in {heavy!r} if m in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"
