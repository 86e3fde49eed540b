"""A hash of the code that a result depends on. Comments and docstrings do not count."""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

OURS: Final = ("penchant.models", "benchmarks")
"""Packages whose modules count. The report names the versions of libraries instead."""


@cache
def code_hash(*modules: str) -> str:
    """Return a hash of the syntax trees of modules and of the modules of `OURS` that they import, directly or not.

    The hash has 16 hexadecimal digits.

    Raises:
        ModuleNotFoundError: If a module does not exist.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(_closure(modules)):
        digest.update(f"{name}\n{ast.dump(_tree(name))}\n".encode())
    return digest.hexdigest()


def _closure(modules: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(name)
    return found


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module!r}")
    return meaning(Path(spec.origin).read_bytes())


@cache
def _imports(module: str) -> list[str]:
    named: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.append(node.module)
            named += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in dict.fromkeys(named) if name.startswith(OURS) and _is_module(name)]


@cache
def _is_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # the parent is a module, so this is a name defined in it
        return False
    return spec is not None and spec.origin is not None


def meaning(source: bytes | str) -> ast.Module:
    """Return the syntax tree without string statements, which are documentation. Comments are never part of the tree."""
    tree: ast.Module = _WithoutDocumentation().visit(ast.parse(source))
    return tree


class _WithoutDocumentation(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        told = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if told else node
