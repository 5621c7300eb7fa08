"""JSON merge patch (RFC 7386)."""

from __future__ import annotations

from typing import Any


def apply(target: Any, patch: Any) -> Any:
    """`target` changed by `patch`: maps merge, null removes, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = apply(result.get(key), value)
        else:
            result[key] = value
    return result


def diff(before: Any, after: Any) -> Any:
    """The merge patch that makes `after` out of `before`; `{}` when they are equal."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif before[key] != value:
            patch[key] = diff(before[key], value)
    return patch
