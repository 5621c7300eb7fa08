"""From entries of text to the user's settings type, and what is wrong with them in words that show no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_SECRET: Final = re.compile(r"pass|secret|token|credential|key|auth|private|dsn|ur[il]$", re.IGNORECASE)
_AT: Final = re.compile(r" - at `\$\.?([^`]*)`")


class Refused(ValueError):
    """These entries do not make valid settings. The message names the field and what is wrong."""


def typed(entries: Mapping[str, Any], type: Any) -> Any:
    """`entries` (text, or JSON for structured fields) as `type`; what it has no field for is left out. Refused.

    The type's own checks count: `__post_init__` of a Struct or dataclass, validators of a pydantic model.
    """
    try:
        validate = getattr(type, "model_validate", None)
        if validate is not None:
            known = type.model_fields
            names = {info.alias or name for name, info in known.items()} | set(known)
            return validate({name: _plain(name, text, None) for name, text in entries.items() if name in names})
        fields = {field.encode_name: field.type for field in _fields(type)}
        values = {name: _plain(name, text, fields[name]) for name, text in entries.items() if name in fields}
        return msgspec.convert(values, type, strict=False)
    except Refused:
        raise
    except Exception as error:  # a check of the user's may raise anything
        raise Refused(explain(error, entries)) from None


def names(type: Any) -> list[str]:
    """The fields of `type`, by the names they have in a source."""
    if hasattr(type, "model_validate"):
        return [info.alias or name for name, info in type.model_fields.items()]
    return [field.encode_name for field in _fields(type)]


def explain(error: Exception, entries: Mapping[str, Any]) -> str:
    """What `error` says, a field at a time, with what was written unless that may be a secret."""
    listed = getattr(error, "errors", None)
    if callable(listed):  # pydantic
        return "; ".join(
            _one(".".join(map(str, fault["loc"])), _hidden(fault["msg"], entries), entries)
            for fault in listed(include_url=False, include_input=False, include_context=False)
        )
    text = str(error) if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: {error}"
    found = _AT.search(text)
    text = _hidden(_AT.sub("", text), entries)
    return _one(found[1] if found else "", text, entries)


def _one(path: str, message: str, entries: Mapping[str, Any]) -> str:
    field = path.partition(".")[0].partition("[")[0]
    written = entries.get(field)
    shown = f" (written: {written.strip()[:60]!r})" if isinstance(written, str) and not _SECRET.search(field) else ""
    return f"{path}: {message}{shown}" if path else message


def _hidden(message: str, entries: Mapping[str, Any]) -> str:
    for name, value in entries.items():
        if isinstance(value, str) and len(value) >= 4 and _SECRET.search(name):
            message = message.replace(value, "[redacted]")
    return message


def _fields(type: Any) -> tuple[msgspec.inspect.Field, ...]:
    info: Any = msgspec.inspect.type_info(type)
    fields: tuple[msgspec.inspect.Field, ...] = info.fields
    return fields


def _plain(name: str, text: Any, wanted: Any) -> Any:
    if not isinstance(text, str):
        return text
    kinds = getattr(wanted, "types", (wanted,))
    if any(isinstance(kind, msgspec.inspect.StrType) for kind in kinds):
        return text[:-1] if text.find("\n") == len(text) - 1 else text  # the end of line that an editor adds
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            return msgspec.json.decode(stripped)
        except msgspec.DecodeError as error:
            raise Refused(f"{name}: not JSON: {error}") from None
    return stripped
