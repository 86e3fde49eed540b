"""What a result depends on: a hash of the code behind it, comments and docstrings left out."""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

OURS: Final = ("penchant.models", "benchmarks")
"""Packages whose modules count; libraries are named by their versions in the report."""


@cache
def code_hash(*modules: str) -> str:
    """Hash of the syntax trees of modules and of all of ours that they import, directly or not. 16 hex digits.

    Raises:
        ModuleNotFoundError: There is no such module.
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
    except ModuleNotFoundError:  # its parent is a module, not a package: a name within it
        return False
    return spec is not None and spec.origin is not None


def meaning(source: bytes | str) -> ast.Module:
    """The syntax tree without strings that stand alone, which are documentation; comments are not in it anyway."""
    tree: ast.Module = _WithoutDocumentation().visit(ast.parse(source))
    return tree


class _WithoutDocumentation(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        told = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if told else node
