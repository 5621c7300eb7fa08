"""JSON patch (RFC 6902) with JSON pointers (RFC 6901)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.kube.errors import ApiError, bad_request

LIMIT = 10_000
"""The most operations one patch may hold, as upstream."""


def apply(target: Any, patch: Any) -> Any:
    """`target` changed by the operations, all or none.

    Raises ApiError: 400 for a patch that is malformed, 422 for one that does not fit the object (a missing path, a
    failed test), 413 for too many operations.
    """
    if not isinstance(patch, list):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(patch) > LIMIT:
        message = f"The allowed maximum operations in a JSON patch is {LIMIT}, got {len(patch)}"
        raise ApiError(413, "RequestEntityTooLarge", message)
    for operation in patch:
        target = _one(target, operation)
    return target


def _one(target: Any, operation: Any) -> Any:
    if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
        raise bad_request("error decoding patch: each operation is an object with `op` and `path`")
    name, path = operation.get("op"), _pointer(operation["path"])
    match name:
        case "add" | "replace" | "test":
            if "value" not in operation:
                raise bad_request(f"error decoding patch: `{name}` needs a `value`")
            value = operation["value"]
            if name == "test":
                if value is None and not _there(target, path):
                    return target  # what is not there is null
                if not _same(_get(target, path), value):
                    raise _unfit(f"testing value {operation['path']} failed")
                return target
            return _set(target, path, value, replace=name == "replace")
        case "remove":
            return _remove(target, path)
        case "move" | "copy":
            if not isinstance(operation.get("from"), str):
                raise bad_request(f"error decoding patch: `{name}` needs `from`")
            source = _pointer(operation["from"])
            value = _get(target, source)
            if name == "move":
                if path[: len(source)] == source and path != source:
                    raise _unfit("a value cannot be moved into itself")
                target = _remove(target, source)
            return _set(target, path, value, replace=False)
    raise bad_request(f'error decoding patch: unknown operation "{name}"')


def _unfit(message: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {message}")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise bad_request(f'error decoding patch: "{text}" is no JSON pointer')
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(part: str, size: int, path: list[str]) -> int:
    """An index into a list of `size` elements. Raises when it is none or out of range."""
    if part.isdecimal() and part.isascii() and (part == "0" or part[0] != "0") and int(part) < size:
        return int(part)
    raise _missing(path)


def _missing(path: list[str]) -> ApiError:
    shown = "/" + "/".join(path)
    return _unfit(f'path "{shown}" does not exist')


def _same(left: Any, right: Any) -> bool:
    """JSON equality: true is not 1, 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _get(target: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(target, dict) and part in target:
            target = target[part]
        elif isinstance(target, list):
            target = target[_index(part, len(target), path)]
        else:
            raise _missing(path)
    return target


def _there(target: Any, path: list[str]) -> bool:
    """Whether there is anything at `path`, as far as its last step goes."""
    try:
        holder = _get(target, path[:-1])
    except ApiError:
        return True  # which testing it tells
    return not (path and isinstance(holder, dict) and path[-1] not in holder)


def _at(target: Any, path: list[str], change: Callable[[Any, str], Any], whole: list[str]) -> Any:
    """A copy of `target` in which the container of the last part of `path` is `change(container, part)`."""
    if len(path) == 1:
        return change(target, path[0])
    if isinstance(target, dict) and path[0] in target:
        return {**target, path[0]: _at(target[path[0]], path[1:], change, whole)}
    if isinstance(target, list):
        index = _index(path[0], len(target), whole)
        return [*target[:index], _at(target[index], path[1:], change, whole), *target[index + 1 :]]
    raise _missing(whole)


def _set(target: Any, path: list[str], value: Any, *, replace: bool) -> Any:
    if not path:
        return value

    def change(container: Any, part: str) -> Any:
        if isinstance(container, dict):
            return {**container, part: value}  # upstream replaces what is not there, too
        if not isinstance(container, list):
            raise _missing(path)
        if replace:
            index = _index(part, len(container), path)
            return [*container[:index], value, *container[index + 1 :]]
        index = len(container) if part == "-" else _index(part, len(container) + 1, path)
        return [*container[:index], value, *container[index:]]

    return _at(target, path, change, path)


def _remove(target: Any, path: list[str]) -> Any:
    if not path:
        return None

    def change(container: Any, part: str) -> Any:
        if isinstance(container, dict):
            if part not in container:
                raise _missing(path)
            return {key: value for key, value in container.items() if key != part}
        if not isinstance(container, list):
            raise _missing(path)
        index = _index(part, len(container), path)
        return [*container[:index], *container[index + 1 :]]

    return _at(target, path, change, path)
