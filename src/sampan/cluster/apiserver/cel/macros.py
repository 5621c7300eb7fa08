"""`has`, the comprehensions over lists and maps, `cel.bind`, and the two of optionals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver.cel.syntax import Node
from sampan.cluster.apiserver.cel.types import BOOL, DYN, INT, Type, list_of, map_of, optional_of
from sampan.cluster.apiserver.cel.values import EvaluationFault, Optional

if TYPE_CHECKING:
    from sampan.cluster.apiserver.cel.compiler import Bindings, Compiled, Compiler, Run

Macro = Callable[["Compiler", Node], "Compiled"]


def find(node: Node) -> Macro | None:
    """The macro a call is, by its name, whether it has a target, and the number of its arguments."""
    target, count = node.target, len(node.parts)
    if target is None:
        return _has if node.name == "has" and count == 1 else None
    if target.kind == "ident" and target.name == "cel" and node.name == "bind" and count == 3:
        return _bind
    if not node.parts or node.parts[0].kind != "ident":
        return None
    return _MACROS.get((node.name, count))


def _has(compiler: Compiler, node: Node) -> Compiled:
    field = node.parts[0]
    if field.kind != "select" or field.target is None:
        raise compiler.fail(field, "invalid argument to has() macro")
    target, owner = compiler.compile(field.target)
    compiler.field(field._replace(at=node.at), owner)
    name = field.name

    def run(env: Bindings) -> bool:
        value = target(env)
        if isinstance(value, Optional):
            value = value.value if value.present else {}
        if not isinstance(value, dict):
            raise EvaluationFault("no such overload")
        return name in value

    return run, BOOL


def _scoped(compiler: Compiler, variables: dict[str, Type], node: Node, *, condition: bool = False) -> Compiled:
    before = compiler.variables
    compiler.variables = {**before, **variables}
    try:
        return (compiler.condition(node), BOOL) if condition else compiler.compile(node)
    finally:
        compiler.variables = before


def _bind(compiler: Compiler, node: Node) -> Compiled:
    name, value, body = node.parts
    bound, kind = compiler.compile(value)
    run, result = _scoped(compiler, {name.name: kind}, body)
    return lambda env: run({**env, name.name: bound(env)}), result


class _Range:
    """What a comprehension walks: its variables with their types, and the walk itself."""

    def __init__(self, compiler: Compiler, node: Node, variables: int) -> None:
        assert node.target is not None
        self.source, kind = compiler.compile(node.target)
        names = [part.name for part in node.parts[:variables]]
        if kind.name not in ("list", "map", "dyn"):
            raise compiler.fail(
                node.target,
                f"expression of type '{kind}' cannot be range of a comprehension (must be list, map, or dynamic)",
            )
        key = INT if kind.name == "list" else kind.parameters[0] if kind.parameters else DYN
        value = kind.parameters[-1] if kind.parameters else DYN
        self.names = names
        self.key, self.item = key, value
        kinds = (value if kind.name == "list" else key,) if variables == 1 else (key, value)
        self.types = dict(zip(names, kinds, strict=True))

    def walk(self, env: Bindings) -> Iterator[tuple[Any, Any, Bindings]]:
        """(key or index, element, bindings) of each element."""
        from sampan.cluster.apiserver.cel.compiler import step

        source = self.source(env)
        if isinstance(source, dict):
            pairs: Any = source.items()
        elif isinstance(source, list):
            pairs = enumerate(source)
        else:
            raise EvaluationFault("no such overload")
        keyed = isinstance(source, dict)
        for key, value in pairs:
            step(env)
            if len(self.names) == 1:
                yield key, value, {**env, self.names[0]: key if keyed else value}
            else:
                yield key, value, {**env, self.names[0]: key, self.names[1]: value}


def _quantified(variables: int, decides: bool) -> Macro:
    def macro(compiler: Compiler, node: Node) -> Compiled:
        from sampan.cluster.apiserver.cel.compiler import boolean

        over = _Range(compiler, node, variables)
        test, _ = _scoped(compiler, over.types, node.parts[-1], condition=True)

        def run(env: Bindings) -> bool:
            fault: EvaluationFault | None = None
            for _, _, inner in over.walk(env):
                try:
                    if boolean(test(inner)) is decides:
                        return decides
                except EvaluationFault as error:
                    fault = error
            if fault is not None:
                raise fault
            return not decides

        return run, BOOL

    return macro


def _exists_one(variables: int) -> Macro:
    def macro(compiler: Compiler, node: Node) -> Compiled:
        over = _Range(compiler, node, variables)
        test, _ = _scoped(compiler, over.types, node.parts[-1], condition=True)
        return lambda env: sum(bool(test(inner)) for _, _, inner in over.walk(env)) == 1, BOOL

    return macro


def _filter(compiler: Compiler, node: Node) -> Compiled:
    over = _Range(compiler, node, 1)
    test, _ = _scoped(compiler, over.types, node.parts[1], condition=True)
    name = over.names[0]
    return lambda env: [inner[name] for _, _, inner in over.walk(env) if test(inner)], list_of(over.types[name])


def _parts(compiler: Compiler, node: Node, variables: int) -> tuple[_Range, Run, Run, Type]:
    over = _Range(compiler, node, variables)
    test: Run = lambda env: True  # noqa: E731 - no condition given
    if len(node.parts) == variables + 2:
        test, _ = _scoped(compiler, over.types, node.parts[variables], condition=True)
    run, kind = _scoped(compiler, over.types, node.parts[-1])
    return over, test, run, kind


def _mapped(variables: int) -> Macro:
    def macro(compiler: Compiler, node: Node) -> Compiled:
        over, test, run, kind = _parts(compiler, node, variables)
        return lambda env: [run(inner) for _, _, inner in over.walk(env) if test(inner)], list_of(kind)

    return macro


def _transform_map(compiler: Compiler, node: Node) -> Compiled:
    over, test, run, kind = _parts(compiler, node, 2)
    return lambda env: {key: run(inner) for key, _, inner in over.walk(env) if test(inner)}, map_of(over.key, kind)


def _optional(flat: bool) -> Macro:
    def macro(compiler: Compiler, node: Node) -> Compiled:
        assert node.target is not None
        target, kind = compiler.compile(node.target)
        name = node.parts[0].name
        inner = kind.parameters[0] if kind.name == "optional_type" and kind.parameters else DYN
        body, result = _scoped(compiler, {name: inner}, node.parts[1])

        def run(env: Bindings) -> Any:
            value = target(env)
            if not isinstance(value, Optional):
                raise EvaluationFault("no such overload")
            if not value.present:
                return value
            made = body({**env, name: value.value})
            return made if flat else Optional(True, made)

        return run, result if flat else optional_of(result)

    return macro


_MACROS: dict[tuple[str, int], Macro] = {
    ("all", 2): _quantified(1, False), ("all", 3): _quantified(2, False),
    ("exists", 2): _quantified(1, True), ("exists", 3): _quantified(2, True),
    ("exists_one", 2): _exists_one(1), ("existsOne", 2): _exists_one(1), ("existsOne", 3): _exists_one(2),
    ("filter", 2): _filter, ("map", 2): _mapped(1), ("map", 3): _mapped(1),
    ("transformList", 3): _mapped(2), ("transformList", 4): _mapped(2),
    ("transformMap", 3): _transform_map, ("transformMap", 4): _transform_map,
    ("optMap", 2): _optional(False), ("optFlatMap", 2): _optional(True),
}  # fmt: skip
