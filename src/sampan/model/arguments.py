"""Whether the values of a declaration have the types that their annotations ask for. mypy says it sooner; not everybody
asks it, and a text where a number belongs would fail far from the line that says so."""

from __future__ import annotations

import collections.abc
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Union

from msgspec import Struct

from sampan.model.application import Workload
from sampan.model.problems import Problem
from sampan.model.values import Environment

if TYPE_CHECKING:
    from sampan.model.application import Application
    from sampan.model.location import Location

_WORDS: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    type(None): "None",
    None: "None",
}
_SAID_BETTER: Final = frozenset({"uses", "calls", "env", "engine", "security", "values", "location"})
"""Arguments that other checks look at: they know what was meant."""


def mistyped(app: Application) -> list[Problem]:
    """A problem for each of them in `app`, as it is and as its environments would have it."""
    found = []
    declared: list[Any] = [app, *app.workloads, *app.handles, *app.environments]
    things: list[tuple[Any, Location, str]] = [(thing, thing.location, "") for thing in declared]
    for environment in app.environments:
        for thing, overrides in environment.values.items():
            if isinstance(thing, Workload):
                where = f" in environment {environment.name!r}"
                things.append((thing.overridden(overrides), environment.location, where))
    for thing, location, where in things:
        for path, value, asked in misfits(thing):
            shown = f"Environment({thing.name!r})" if isinstance(thing, Environment) else repr(thing)
            found.append(Problem(f"{shown} has {path}={value!r}{where}", location, f"it is {asked}"))
    return found


def misfits(thing: Any) -> Iterator[tuple[str, Any, str]]:
    """The arguments of `thing` that are of another type than its constructor asks for, and those within its values:
    `("scale.minimum", "3", "a whole number")`."""
    for name, hint in wanted(type(thing)).items():
        if name not in _SAID_BETTER and hasattr(thing, name):
            yield from _within(name, getattr(thing, name), hint)


def _within(path: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, str]]:
    if not fits(value, hint):
        yield path, value, words(hint)
    elif isinstance(value, Struct):
        yield from ((f"{path}.{name}", found, asked) for name, found, asked in misfits(value))
    elif isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            yield from _within(f"{path}[{number}]", one, Any)


def wanted(kind: Any) -> Mapping[str, Any]:
    """The annotations of the constructor of `kind`; Any for what is known to type checkers only."""
    struct = issubclass(kind, Struct)
    written = kind.__annotations__ if struct else kind.__init__.__annotations__
    named = vars(sys.modules["sampan.model"]) | vars(collections.abc) | vars(sys.modules[kind.__module__])
    return {name: _resolved(text, named) for name, text in written.items() if name != "return"}


def _resolved(written: Any, named: dict[str, Any]) -> Any:
    if not isinstance(written, str):
        return written
    try:
        return eval(written, named)  # noqa: S307  annotations of ours
    except NameError:
        return Any


def fits(value: Any, hint: Any) -> bool:
    """A whole number is a number too; True is neither."""
    if hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is None:
        if hint in (int, float) and isinstance(value, bool):
            return False
        if hint is float:
            hint = (int, float)
        elif hint is None:
            hint = type(None)
        return not isinstance(hint, (type, tuple)) or isinstance(value, hint)
    if not isinstance(value, origin):
        return False
    if issubclass(origin, Mapping):
        return all(fits(key, arguments[0]) and fits(one, arguments[1]) for key, one in value.items())
    if issubclass(origin, collections.abc.Collection) and len(arguments) == 1:
        return all(fits(one, arguments[0]) for one in value)
    return True


def words(hint: Any) -> str:
    """What `hint` asks for, to read: "a whole number or None"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(words(one) for one in arguments)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is None:
        return _WORDS.get(hint) or f"{'an' if hint.__name__[0] in 'AEIO' else 'a'} {hint.__name__}"
    if issubclass(origin, Mapping):
        return f"a mapping of {words(arguments[0])} to {words(arguments[1])}"
    if issubclass(origin, Sequence):
        return f"a list, each {words(arguments[0])}"
    return str(origin.__name__)
