"""Checks import strings and handler signatures by reading source, without importing anything."""

from __future__ import annotations

import ast
import difflib
from typing import Any

from sampan.model.sources import Module, find_module, parse

Wrong = tuple[str, str]
"""What is wrong, and the remedy."""


def check_import(text: str) -> Wrong | None:
    """`module:attribute` where the module exists and defines the attribute."""
    found = _resolve(text)
    return found if isinstance(found, tuple) else None


def check_handler(text: str, event: type[Any]) -> Wrong | None:
    """An `async def` whose first parameter takes the event type of the topic."""
    found = _resolve(text)
    if isinstance(found, tuple):
        return found
    if found is None:
        return None
    attribute = text.partition(":")[2]
    node = found.names.get(attribute)
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return "is not an async function", f"write it as `async def {attribute}(event: {event.__name__}, ...)`"
    if not isinstance(node, ast.AsyncFunctionDef):
        return None
    parameters = [*node.args.posonlyargs, *node.args.args]
    if not parameters and node.args.vararg is None:
        return "takes no event", f"its first parameter is the event: `async def {attribute}(event: {event.__name__})`"
    annotation = parameters[0].annotation if parameters else None
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    written = (
        annotation.id
        if isinstance(annotation, ast.Name)
        else annotation.attr
        if isinstance(annotation, ast.Attribute)
        else None
    )
    if written is None or written in (event.__name__, "Any", "object") or not _is_class(found, written):
        return None
    return (
        f"takes {written} (line {node.lineno}), while the topic carries {event.__name__}",
        f"annotate its first parameter with {event.__name__}, or subscribe it to another topic",
    )


def _is_class(module: Module, name: str) -> bool:
    """Whether the name certainly is a class under its own name: defined here, or imported without `as`."""
    node = module.names.get(name)
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == name and alias.asname is None for alias in node.names)
    return isinstance(node, ast.ClassDef)


def _resolve(text: str) -> Module | Wrong | None:
    """The module that defines the attribute; what is wrong; or None when that cannot be told from its source."""
    module_name, colon, attribute = text.partition(":")
    if not (colon and attribute and all(part.isidentifier() for part in (module_name + "." + attribute).split("."))):
        return "is not an import string", 'write it as "package.module:attribute"'
    path = find_module(module_name)
    if path is None:
        parent, _, last = module_name.rpartition(".")
        package = find_module(parent) if parent else None
        if package is not None:
            near = difflib.get_close_matches(last, [file.stem for file in package.parent.glob("*.py")], 1)
            hint = f"did you mean {parent}.{near[0]}?" if near else f"there is no {last}.py beside {package.name}"
        else:
            hint = "create it, or correct the name; it is searched for where Python searches, as `import` would"
        return f"names the module {module_name}, which does not exist", hint
    try:
        module = parse(path)
    except SyntaxError as error:
        return f"names the module {module_name}, which has a syntax error", f"{path}:{error.lineno}: {error.msg}"
    first = attribute.partition(".")[0]
    if first in module.names:
        return module
    if module.open or (path.parent / first).is_dir() or (path.parent / f"{first}.py").is_file():
        return None
    near = difflib.get_close_matches(first, list(module.names), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"define {first} in {path.name}"
    return f"names {first!r}, which {module_name} does not define", hint
