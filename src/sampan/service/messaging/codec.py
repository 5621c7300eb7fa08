"""Events as JSON: msgspec for Structs and dataclasses, pydantic's own for its models."""

from __future__ import annotations

from typing import Any

import msgspec


def encode(event: Any) -> bytes:
    dump = getattr(event, "model_dump_json", None)
    return dump().encode() if dump is not None else msgspec.json.encode(event)


def decode(payload: bytes, type: Any) -> Any:
    """ValueError when `payload` is not JSON of `type`."""
    validate = getattr(type, "model_validate_json", None)
    return validate(payload) if validate is not None else msgspec.json.decode(payload, type=type)
