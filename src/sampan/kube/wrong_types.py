"""Values of other types than their schemas', in upstream's words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sampan.kube.errors import Cause

if TYPE_CHECKING:
    from sampan.kube.schema import Schema

INTEGERS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return "array"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "number"
    return "integer" if float(value).is_integer() else "number"


def in_body(path: str) -> str:
    return f"{path} in body"


FLOATS = {"float": 3.4028234663852886e38, "double": math.inf}
"""Formats of numbers -> the largest there is."""
_FORMATS: dict[str, frozenset[str]] = {
    "integer": frozenset(INTEGERS), "number": frozenset(FLOATS), "string": frozenset({"date", "email"}),
}  # fmt: skip


def form_of(schema: Schema) -> str:
    """The format that names the type of a custom kind's field."""
    known = schema.structural and schema.format in _FORMATS.get(schema.type, ())
    return schema.format if known else ""


def wrong_type(value: Any, wanted: str, path: str, causes: list[Cause], form: str = "") -> None:
    """`form`: the format of a custom kind's field, which names its type for all but text and lists."""
    found = json_type(value)
    if form and not isinstance(value, str | list):
        shown_type, shown_found = form, "float64" if found == "number" else _FORMS.get(type(value), "")
    else:
        shown_type, shown_found = wanted, found
    message = f'Invalid value: "{shown_found}": {in_body(path)} must be of type {shown_type}: "{shown_found}"'
    causes.append(Cause(path, message, "FieldValueTypeInvalid"))
    if (wanted, found) == ("integer", "number"):  # upstream finds it twice
        causes.append(unfit(form, path))


_FORMS = {int: "int64", float: "int64"}
"""What Go's types of values are called where a format is asked for; others have none."""


def unfit(form: str, path: str, wanted: str = "integer") -> Cause:
    kind = f"with format {form}" if form else "(default format)"
    return Cause("<nil>", f'Invalid value: "": Checked value must be of type {wanted} {kind} in {path}')
