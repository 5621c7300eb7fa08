"""The fields of a configuration type (msgspec Struct, dataclass or pydantic model), and their text in a ConfigMap."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.model.handles import Config

REQUIRED: Any = object()


def fields(kind: type[Any]) -> dict[str, Any] | None:
    """Field -> default, or REQUIRED. None when the type is none of those that have fields."""
    names = getattr(kind, "__struct_fields__", None)
    if names is not None:
        msgspec = sys.modules["msgspec"]
        found = {}
        for info in msgspec.structs.fields(kind):
            if info.default_factory is not msgspec.NODEFAULT:
                found[info.name] = info.default_factory()
            else:
                found[info.name] = REQUIRED if info.default is msgspec.NODEFAULT else info.default
        return found
    if dataclasses.is_dataclass(kind):
        result = {}
        for item in dataclasses.fields(kind):
            if item.default_factory is not dataclasses.MISSING:
                result[item.name] = item.default_factory()
            else:
                result[item.name] = REQUIRED if item.default is dataclasses.MISSING else item.default
        return result
    models = getattr(kind, "model_fields", None)
    if isinstance(models, dict):
        return {
            name: REQUIRED if info.is_required() else info.get_default(call_default_factory=True)
            for name, info in models.items()
        }
    return None


def values(config: Config[Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """The values of every field: defaults, then those of the declaration, then `override`."""
    return {**(fields(config.type) or {}), **config.values, **override}


def mistake(config: Config[Any], override: Mapping[str, Any]) -> str | None:
    """What the type says against these values; None when it accepts them."""
    merged = values(config, override)
    keys = _encoded(config.type)
    missing = sorted(name for name, value in merged.items() if value is REQUIRED)
    if missing:
        return f"no value for {', '.join(missing)}"
    if not config.values and not override:
        return None  # the defaults of a type are its own affair
    try:
        if hasattr(config.type, "model_validate"):
            config.type.model_validate(merged)
        else:
            import msgspec

            msgspec.convert(
                msgspec.to_builtins({keys.get(name, name): value for name, value in merged.items()}, str_keys=True),
                config.type,
                strict=True,
            )
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def as_text(config: Config[Any], override: Mapping[str, Any]) -> dict[str, str]:
    """A text per field, by the name it has in a file: strings as they are, None left out, all else as JSON."""
    result, keys = {}, _encoded(config.type)
    for name, value in values(config, override).items():
        plain = _plain(value)
        if plain is None or plain is REQUIRED:
            continue
        text = plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True, ensure_ascii=False, default=str)
        result[keys.get(name, name)] = text
    return result


def _encoded(kind: type[Any]) -> dict[str, str]:
    """Field -> the name it has in a file, where a Struct renames its fields."""
    names = getattr(kind, "__struct_fields__", ())
    return dict(zip(names, getattr(kind, "__struct_encode_fields__", names), strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)) or value is None or value is REQUIRED:
        return value
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if (msgspec := sys.modules.get("msgspec")) is not None:
        return msgspec.to_builtins(value, str_keys=True)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
