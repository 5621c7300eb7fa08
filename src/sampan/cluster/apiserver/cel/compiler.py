"""From a tree to a closure and its type: names, overloads and fields are checked here, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sampan.cluster.apiserver.cel import library, macros
from sampan.cluster.apiserver.cel.syntax import Node, SyntaxFault, parse
from sampan.cluster.apiserver.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    INT,
    NULL,
    SHOWN,
    STRING,
    TYPE,
    UINT,
    Type,
    list_of,
    map_of,
    optional_of,
    resolve,
    unify,
)
from sampan.cluster.apiserver.cel.values import EvaluationFault, Format, Optional, Structure, UInt, type_name

STEPS = 200_000
"""Elements all comprehensions of one evaluation may visit; some tenths of a second."""
OVER_BUDGET = "operation cancelled: actual cost limit exceeded"

Bindings = dict[str, Any]
Run = Callable[[Bindings], Any]
Compiled = tuple[Run, Type]
_LITERALS: dict[type, Type] = {
    bool: BOOL, int: INT, UInt: UINT, float: DOUBLE, str: STRING, bytes: BYTES, type(None): NULL,
}  # fmt: skip
PATCH_FIELDS: dict[str, Type] = {"op": STRING, "path": STRING, "from": STRING, "value": DYN}
"""The fields of a JSONPatch structure."""
_TYPES = frozenset(("bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"))


class Program:
    """A compiled expression: `type` is what it gives; `names` the variables it uses."""

    def __init__(self, text: str, run: Run, kind: Type, names: frozenset[str]) -> None:
        self.text, self._run, self.type, self.names = text, run, kind, names

    def evaluate(self, bindings: Mapping[str, Any]) -> Any:
        """Raises EvaluationFault."""
        try:
            return self._run({**bindings, "": [STEPS]})
        except RecursionError:
            raise EvaluationFault(OVER_BUDGET) from None
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
            raise EvaluationFault("no such overload") from None  # values of types that were not known before


def compile_program(text: str, variables: Mapping[str, Type], *, structures: bool = False) -> Program:
    """`structures`: objects may be written, as mutations do. Raises SyntaxFault, whose text says where."""
    compiler = Compiler(text, variables, structures=structures)
    run, kind = compiler.compile(parse(text))
    return Program(text, run, kind, frozenset(compiler.used))


def step(env: Bindings) -> None:
    budget = env[""]
    budget[0] -= 1
    if budget[0] < 0:
        raise EvaluationFault(OVER_BUDGET)


class Compiler:
    def __init__(self, text: str, variables: Mapping[str, Type], *, structures: bool = False) -> None:
        self.text = text
        self.structures = structures
        self.variables = dict(variables)
        self.used: set[str] = set()

    def fail(self, node: Node, message: str) -> SyntaxFault:
        return SyntaxFault(self.text, node.at, message)

    def compile(self, node: Node) -> Compiled:
        made: Compiled = getattr(self, f"_{node.kind}")(node)
        return made

    def _literal(self, node: Node) -> Compiled:
        value = node.value
        return lambda env: value, _LITERALS[type(value)]

    def _ident(self, node: Node) -> Compiled:
        name = node.name
        kind = self.variables.get(name)
        if kind is None:
            if name in _TYPES:
                return lambda env: Format(name), TYPE
            raise self.fail(node, f"undeclared reference to '{name}' (in container '')")
        self.used.add(name)

        def run(env: Bindings) -> Any:
            try:
                value = env[name]
            except KeyError:
                raise EvaluationFault(f"no such attribute(s): {name}") from None
            return value() if callable(value) else value

        return run, kind

    # -- fields and elements

    def field(self, node: Node, owner: Type) -> Type:
        """The type of `owner`.name. Raises SyntaxFault."""
        inner = owner.parameters[0] if owner.name == "optional_type" else owner
        if inner.fields is not None:
            found = inner.fields.get(node.name)
            if found is None:
                raise self.fail(node, f"undefined field '{node.name}'")
        elif inner.name == "map":
            found = inner.parameters[1]
        elif inner.name == "dyn":
            found = DYN
        else:
            raise self.fail(node, f"type '{SHOWN.get(inner.name, inner)}' does not support field selection")
        return found

    def _select(self, node: Node) -> Compiled:
        assert node.target is not None
        name = node.name
        full = self._dotted(node)
        if full in library.CONSTANTS:
            value = library.CONSTANTS[full]
            return lambda env: value, INT
        target, owner = self.compile(node.target)
        kind = self.field(node, owner)
        if node.optional or owner.name == "optional_type":

            def maybe(env: Bindings) -> Any:
                value = target(env)
                if isinstance(value, Optional):
                    if not value.present:
                        return value
                    value = value.value
                if isinstance(value, dict) and name in value:
                    return Optional(True, value[name])
                return Optional(False)

            return maybe, optional_of(kind)

        def run(env: Bindings) -> Any:
            value = target(env)
            try:
                return value[name]
            except KeyError:
                raise EvaluationFault(f"no such key: {name}") from None
            except (TypeError, IndexError):
                raise EvaluationFault("no such overload") from None

        return run, kind

    @staticmethod
    def _dotted(node: Node) -> str:
        target = node.target
        return f"{target.name}.{node.name}" if target is not None and target.kind == "ident" else ""

    def _index(self, node: Node) -> Compiled:
        assert node.target is not None
        (target, owner), (index, kind) = self.compile(node.target), self.compile(node.parts[0])
        inner = owner.parameters[0] if owner.name == "optional_type" else owner
        fits = {"list": INT, "map": inner.parameters[0] if inner.parameters else DYN}.get(inner.name)
        if (fits is None and inner.name != "dyn") or (fits is not None and not unify(fits, kind, {})):
            raise self.fail(node, f"found no matching overload for '_[_]' applied to '({owner}, {kind})'")
        result = inner.parameters[-1] if inner.parameters else DYN

        def run(env: Bindings) -> Any:
            value, key = target(env), index(env)
            return element(value, key)

        if not (node.optional or owner.name == "optional_type"):
            return run, result

        def maybe(env: Bindings) -> Any:
            value, key = target(env), index(env)
            if isinstance(value, Optional):
                if not value.present:
                    return value
                value = value.value
            try:
                return Optional(True, element(value, key))
            except EvaluationFault:
                return Optional(False)

        return maybe, optional_of(result)

    def _list(self, node: Node) -> Compiled:
        parts = [self.compile(part) for part in node.parts]
        rows = [(run, optional) for (run, _), optional in zip(parts, node.value, strict=True)]
        kinds = [_inner(kind, optional) for (_, kind), optional in zip(parts, node.value, strict=True)]
        if not any(node.value):
            return lambda env: [run(env) for run, _ in rows], list_of(_common(kinds))
        return lambda env: [one for run, optional in rows for one in given(run(env), optional)], list_of(_common(kinds))

    def _map(self, node: Node) -> Compiled:
        parts = [self.compile(part) for part in node.parts]
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        rows = [(key[0], value[0], optional) for (key, value), optional in zip(pairs, node.value, strict=True)]
        kinds = [_inner(value[1], optional) for (_, value), optional in zip(pairs, node.value, strict=True)]
        kind = map_of(_common([key[1] for key, _ in pairs]), _common(kinds))
        return lambda env: {key(env): one for key, value, optional in rows for one in given(value(env), optional)}, kind

    def _struct(self, node: Node) -> Compiled:
        name = node.name
        patch = name == "JSONPatch"
        if not self.structures or not (patch or name == "Object" or name.startswith("Object.")):
            raise self.fail(node, f"undeclared reference to '{name}' (in container '')")
        parts = [self.compile(part) for part in node.parts]
        for (field, _), part, (_, kind) in zip(node.value, node.parts, parts, strict=True):
            if patch and field not in PATCH_FIELDS:
                raise self.fail(part, f"undefined field '{field}'")
            if patch and PATCH_FIELDS[field] is STRING and kind.name not in ("string", "dyn"):
                raise self.fail(part, f"expected type of field '{field}' is 'string' but provided type is '{kind}'")
        rows = [(field, run, optional) for (field, optional), (run, _) in zip(node.value, parts, strict=True)]

        def run(env: Bindings) -> Any:
            made = Structure()
            made.name = name
            for field, value, optional in rows:
                for found in given(value(env), optional):
                    made[field] = found
            return made

        return run, Type(name)

    # -- logic: what one side says may make the other's fault irrelevant

    def condition(self, node: Node) -> Run:
        run, kind = self.compile(node)
        if kind.name not in ("bool", "dyn"):
            raise self.fail(node, f"expected type 'bool' but found '{kind}'")
        return run

    def _and(self, node: Node) -> Compiled:
        return self._logic(node, False), BOOL

    def _or(self, node: Node) -> Compiled:
        return self._logic(node, True), BOOL

    def _logic(self, node: Node, decides: bool) -> Run:
        left, right = (self.condition(part) for part in node.parts)

        def run(env: Bindings) -> bool:
            try:
                if boolean(left(env)) is decides:
                    return decides
            except EvaluationFault:
                if boolean(right(env)) is decides:
                    return decides
                raise
            return boolean(right(env))

        return run

    def _if(self, node: Node) -> Compiled:
        (test, first), (then, yes), (other, no) = (self.compile(part) for part in node.parts)
        if first.name not in ("bool", "dyn") or not (unify(yes, no, {}) or unify(no, yes, {})):
            raise self.fail(node, f"found no matching overload for '_?_:_' applied to '({first}, {yes}, {no})'")
        return lambda env: then(env) if boolean(test(env)) else other(env), _common([yes, no])

    # -- calls

    def _call(self, node: Node) -> Compiled:
        macro = macros.find(node)
        if macro is not None:
            made: Compiled = macro(self, node)
            return made
        name, target = node.name, node.target
        if target is not None and target.kind == "ident" and target.name not in self.variables:
            qualified = f"{target.name}.{name}"
            if qualified in library.FUNCTIONS:
                name, target = qualified, None
        overloads = library.FUNCTIONS.get(name)
        if overloads is None:
            raise self.fail(node, f"undeclared reference to '{name}' (in container '')")
        arguments = (target, *node.parts) if target is not None else node.parts
        parts = [self.compile(part) for part in arguments]
        kinds = [kind for _, kind in parts]
        fitting, result = [], None
        for overload in overloads:
            bound: dict[str, Type] = {}
            if overload.receiver != (target is not None) or len(overload.parameters) != len(kinds):
                continue
            if all(unify(w, f, bound) for w, f in zip(overload.parameters, kinds, strict=True)):
                fitting.append(overload)
                found = resolve(overload.result, bound)
                result = found if result is None or result == found else DYN
        if result is None:
            shown = [str(SHOWN.get(kind.name, kind)) for kind in kinds]
            applied = f"{shown[0]}.({', '.join(shown[1:])})" if target is not None else f"({', '.join(shown)})"
            raise self.fail(node, f"found no matching overload for '{name}' applied to '{applied}'")
        self._check_constants(name, arguments)
        runs, function = [run for run, _ in parts], fitting[0].function
        if len(fitting) > 1:
            functions = {one.function for one in fitting}
            function = function if len(functions) == 1 else library.dispatcher(name, fitting)

        def run(env: Bindings) -> Any:
            try:
                return function(*[one(env) for one in runs])
            except (TypeError, AttributeError, KeyError):
                raise EvaluationFault("no such overload") from None
            except (ValueError, OverflowError, ArithmeticError) as error:
                raise EvaluationFault(str(error)) from None

        return run, result

    def _check_constants(self, name: str, arguments: tuple[Node, ...]) -> None:
        """What is written out is tried now: a pattern, a duration, a timestamp that cannot be read."""
        check = library.CONSTANT_CHECKS.get(name)
        if check is None or not arguments or arguments[-1].kind != "literal":
            return
        try:
            check(arguments[-1].value)
        except (ValueError, TypeError, OverflowError):
            raise self.fail(arguments[-1], f"invalid {name} argument") from None


def given(value: Any, optional: bool) -> tuple[Any, ...]:
    """The element of a list, map or object, or nothing where it is an absent optional."""
    if not optional or not isinstance(value, Optional):
        return (value,)
    return (value.value,) if value.present else ()


def _inner(kind: Type, optional: bool) -> Type:
    return kind.parameters[0] if optional and kind.name == "optional_type" else kind


def boolean(value: Any) -> bool:
    if value.__class__ is not bool:
        raise EvaluationFault("no such overload")
    return bool(value)


def element(value: Any, key: Any) -> Any:
    if isinstance(value, dict):
        if key in value:
            return value[key]
        raise EvaluationFault(f"no such key: {key}")
    if isinstance(value, list) and not isinstance(key, bool | str):
        if key == int(key) and 0 <= key < len(value):
            return value[int(key)]
        raise EvaluationFault(f"index out of bounds: {key}")
    raise EvaluationFault(f"no such overload: {type_name(value)}[{type_name(key)}]")


def _common(kinds: list[Type]) -> Type:
    if not kinds:
        return DYN
    first = kinds[0]
    return first if all(kind == first for kind in kinds) else DYN
