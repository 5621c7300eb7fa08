"""Faults of a field in upstream's wording (`field.Error` of apimachinery), collected while an object is walked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sampan.kube import names
from sampan.kube.errors import Cause

NameRule = Callable[[str], list[str]]
"""What is wrong with a name, by one of the rules of `kube.names`."""


class Structure(dict[str, Any]):
    """A structure shown in a message: its fields keep their order, texts though they may be."""


def _shown(value: Any) -> str:
    return json.dumps(_sorted(value), separators=(",", ":"), ensure_ascii=False)


def _sorted(value: Any) -> Any:
    """`value` with its maps of labels in order; structures keep that of their fields."""
    if not isinstance(value, dict):
        return [_sorted(item) for item in value] if isinstance(value, list) else value
    if not isinstance(value, Structure) and all(isinstance(item, str) for item in value.values()):
        return dict(sorted(value.items()))
    return {key: _sorted(item) for key, item in value.items()}


class Faults:
    """Collects causes; each method is one `ErrorType`."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def _add(self, reason: str, path: str, message: str, detail: str = "") -> None:
        self.causes.append(Cause(path, f"{message}: {detail}" if detail else message, reason))

    def required(self, path: str, detail: str = "") -> None:
        self._add("FieldValueRequired", path, "Required value", detail)

    def invalid(self, path: str, value: Any, detail: str) -> None:
        self._add("FieldValueInvalid", path, f"Invalid value: {_shown(value)}", detail)

    def duplicate(self, path: str, value: Any) -> None:
        self._add("FieldValueDuplicate", path, f"Duplicate value: {_shown(value)}")

    def not_found(self, path: str, value: Any) -> None:
        self._add("FieldValueNotFound", path, f"Not found: {_shown(value)}")

    def forbidden(self, path: str, detail: str) -> None:
        self._add("FieldValueForbidden", path, "Forbidden", detail)

    def too_long(self, path: str, limit: int) -> None:
        self._add("FieldValueTooLong", path, "Too long", f"may not be more than {limit} bytes")

    def too_many(self, path: str, count: int, limit: int) -> None:
        self._add("FieldValueTooMany", path, f"Too many: {count}", f"must have at most {limit} items")

    def one_of(self, path: str, value: Any, allowed: Iterable[str], *, required: bool | None = True) -> None:
        """`value` must be one of `allowed`; an absent one too, as missing, or with None as wrong."""
        if required is not None and (value is None or value == ""):
            if required:
                self.required(path)
        elif value not in (options := list(allowed)):
            choices = ", ".join(_shown(option) for option in options)
            self._add(
                "FieldValueNotSupported", path, f"Unsupported value: {_shown(value)}", f"supported values: {choices}"
            )

    def one_given(self, path: str, value: Any, allowed: Iterable[str], *, required: bool = False) -> None:
        """As `one_of`, of a field of which Go tells one that is "" from none: it is wrong."""
        self.one_of(path, value, allowed, required=required if value is None else None)

    def name_given(self, path: str, value: Any, rule: NameRule) -> None:
        """As `name`, of such a field."""
        for message in rule(value) if value is not None else ():
            self.invalid(path, value, message)

    def non_negative(self, path: str, value: Any) -> None:
        if isinstance(value, int) and value < 0:
            self.invalid(path, value, "must be greater than or equal to 0")

    def positive(self, path: str, value: Any) -> None:
        if isinstance(value, int) and value < 1:
            self.invalid(path, value, "must be greater than 0")

    def immutable(self, path: str, new: Any, old: Any, detail: str = "field is immutable") -> None:
        if new != old:
            self.invalid(path, new, detail)

    def port(self, path: str, value: Any) -> None:
        if isinstance(value, int) and not 1 <= value <= 65535:
            self.invalid(path, value, "must be between 1 and 65535, inclusive")

    def name(self, path: str, value: Any, rule: NameRule, *, required: bool = True) -> None:
        """`value` must be a name by `rule`."""
        if not value:
            if required:
                self.required(path)
            return
        for message in rule(value):
            self.invalid(path, value, message)

    def labels(self, path: str, labels: Any) -> None:
        for key, value in (labels or {}).items():
            for message in qualified_name_problems(key):
                self.invalid(path, key, message)
            for message in LABEL_VALUE(value or ""):
                self.invalid(path, value, message)

    def conditions(self, path: str, rows: Any) -> None:
        """Conditions of a status: each says since when it is so, and why."""
        for index, row in enumerate(maps(rows)):
            for field in ("lastTransitionTime", "reason"):
                if not row.get(field):
                    self.required(f"{path}[{index}].{field}")

    def label_selector(self, path: str, selector: Any) -> None:
        """A LabelSelector: keys, values and operators."""
        if not selector:
            return
        self.labels(f"{path}.matchLabels", selector.get("matchLabels"))
        for index, expression in enumerate(selector.get("matchExpressions") or ()):
            expression = expression or {}  # a null among them  # noqa: PLW2901
            where, operator = f"{path}.matchExpressions[{index}]", expression.get("operator")
            values = expression.get("values") or ()
            if operator in ("In", "NotIn"):
                if not values:
                    self.required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            elif operator in ("Exists", "DoesNotExist"):
                if values:
                    self.forbidden(
                        f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    )
            else:
                self.invalid(f"{where}.operator", operator or "", "not a valid selector operator")
            for message in qualified_name_problems(expression.get("key") or ""):
                self.invalid(f"{where}.key", expression.get("key") or "", message)


DNS_LABEL = names.dns1123_label
DNS_SUBDOMAIN = names.dns1123_subdomain
DNS_1035_LABEL = names.dns1035_label
LABEL_VALUE = names.label_value
CONFIG_KEY = names.config_key
ENVIRONMENT_NAME = names.environment_name
qualified_name_problems = names.qualified_name
port_name_problems = names.port_name

_WILDCARD = re.compile(r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def wildcard_domain(text: str) -> list[str]:
    """What is wrong with a host such as `*.example.com`."""
    if _WILDCARD.fullmatch(text):
        return []
    return [
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of"
        " lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com',"
        f" regex used for validation is '{_WILDCARD.pattern}')"
    ]


def port_or_name(faults: Faults, path: str, value: Any) -> None:
    """An IntOrString that names a port: a number in range, or a port's name."""
    if isinstance(value, int):
        faults.port(path, value)
    elif isinstance(value, str):
        for message in port_name_problems(value):
            faults.invalid(path, value, message)


def part_or_percent(faults: Faults, path: str, value: Any) -> None:
    """An IntOrString that is a count or a percentage."""
    if isinstance(value, int):
        faults.non_negative(path, value)
    elif isinstance(value, str) and not re.fullmatch(r"[0-9]+%", value):
        faults.invalid(
            path,
            value,
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex"
            " used for validation is '[0-9]+%')",
        )


def maps(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list that a client sent; nothing when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def sub(obj: Any, *path: str) -> dict[str, Any]:
    """The mapping at `path`, an empty detached one when there is none."""
    for step in path:
        obj = obj.get(step) if isinstance(obj, Mapping) else None
    return obj if isinstance(obj, dict) else {}
