"""What can be known of a module without importing it: its file, its names, and the files of the project it needs."""

from __future__ import annotations

import ast
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Module(Struct):
    """A parsed module: its file, and its top-level names with the node that defines each."""

    path: Path
    tree: ast.Module
    names: dict[str, ast.AST] = field(default_factory=dict)
    open: bool = False  # names may exist that cannot be seen (`from x import *`, `__getattr__`)


def find_module(name: str) -> Path | None:
    """The file of a module, without importing it or its packages. None if there is none, or it is not Python source."""
    location: Sequence[str] | None = None
    origin: str | None = None
    parts = name.split(".")
    for index in range(len(parts)):
        full = ".".join(parts[: index + 1])
        spec = None
        for finder in sys.meta_path:
            if (find := getattr(finder, "find_spec", None)) and (spec := find(full, location)) is not None:
                break
        if spec is None:
            return None
        origin = spec.origin
        location = spec.submodule_search_locations
        if location is None and index < len(parts) - 1:
            return None
    return Path(origin) if origin and origin.endswith(".py") else None


def parse(path: Path) -> Module:
    """Raises SyntaxError."""
    return _parse(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _parse(path: Path, _modified: int) -> Module:
    tree = ast.parse(path.read_bytes(), str(path))
    module = Module(path, tree)
    for node in _top_level(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            module.names[node.name] = node
            module.open |= node.name == "__getattr__"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                module.open |= alias.name == "*"
                module.names[alias.asname or alias.name.partition(".")[0]] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for inner in ast.walk(target):
                    if isinstance(inner, ast.Name):
                        module.names[inner.id] = node
    return module


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, into `if`, `try`, `with` and loops but not into functions and classes."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for part in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _top_level(handler.body)


def local_source_files(import_string: str, project_dir: Path) -> list[Path]:
    """The files under `project_dir` that importing `module[:attribute]` would load, sorted: the static import graph.

    Imports inside functions and under `TYPE_CHECKING` count too; `importlib.import_module(...)` cannot be seen.
    """
    root = project_dir.resolve()
    found: set[Path] = set()
    pending = [import_string.partition(":")[0]]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        package, _, _ = name.rpartition(".")
        if package:
            pending.append(package)
        path = _local_file(name, root)
        if path is None or path in found:
            continue
        found.add(path)
        try:
            pending.extend(_imports(parse(path), name))
        except SyntaxError:
            continue
    return sorted(found)


def _local_file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _imports(module: Module, name: str) -> Iterator[str]:
    package = name if module.path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")
                parent = parent[: len(parent) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
