"""Bodies that are YAML: as JSON has them, and which keys they name twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import msgspec

from sampan.kube.errors import bad_request

MAX_NODES = 500_000
MAX_DEPTH = 200


@cache
def _loader() -> Any:
    """PyYAML's loader with the words of YAML 1.1 that it leaves out: y and n are true and false."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        bool_values: ClassVar = {**yaml.SafeLoader.bool_values, "y": True, "n": False}

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))
    return Loader


def repeated_keys(body: bytes) -> list[str]:
    """`line 6: key "x" already set in map` for each, in a body that is YAML."""
    if body.lstrip()[:1] == b"{":
        found: list[int] = []
        json_pairs: Callable[[list[tuple[str, Any]]], None] = lambda items: (  # noqa: E731
            found.append(1) if len(dict(items)) != len(items) else None
        )
        try:
            json.loads(body, object_pairs_hook=json_pairs)
            if not found:
                return []
        except (ValueError, RecursionError):
            pass
    import yaml

    faults: list[str] = []

    def walk(node: Any, depth: int) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    plain = key.value if key.tag.endswith(":str") else _loader().bool_values.get(key.value, key.value)
                    shown = json.dumps(plain)
                    if shown in seen:
                        faults.append(f"line {value.start_mark.line + 1}: key {shown} already set in map")
                    seen.add(shown)
                walk(value, depth + 1)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item, depth + 1)

    try:
        walk(yaml.compose(body, Loader=_loader()), 0)
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    return faults


def read(body: bytes) -> Any:
    """Raises ApiError 400."""
    import yaml

    loader = _loader()
    try:
        # JSON is the usual case (client-go sends it as YAML) and far faster to read.
        if body.lstrip()[:1] == b"{":
            return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass
    try:
        # The C loader builds nested values recursively and would overrun its stack; its parser does not.
        depth = 0
        for event in yaml.parse(body, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise bad_request("the YAML body is nested too deeply")
        documents = list(yaml.load_all(body, Loader=loader))
        if len(documents) != 1:
            raise bad_request("the body must hold exactly one YAML document")
        return _plain(documents[0], [MAX_NODES])
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, MemoryError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from None


def _plain(value: Any, budget: list[int]) -> Any:
    """YAML as JSON has it: dates as text, keys as strings, aliases copied, but not into more than `MAX_NODES`."""
    budget[0] -= 1
    if budget[0] < 0:
        raise bad_request("the YAML body expands to too much")
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(key): _plain(item, budget) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, budget) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else str(value)
