# ruff: noqa: E501 - the messages are upstream's, to the letter
"""Rules for names, labels and annotations. Each check returns its faults, in upstream's words; an empty list is well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sampan.kube.errors import Cause

_LABEL_TEXT = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_TEXT = rf"{_LABEL_TEXT}(\.{_LABEL_TEXT})*"
_DNS1035_TEXT = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED_TEXT = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE_TEXT = f"({_QUALIFIED_TEXT})?"
_KEY_TEXT = r"[-._a-zA-Z0-9]+"

_LABEL, _SUBDOMAIN, _DNS1035 = re.compile(_LABEL_TEXT), re.compile(_SUBDOMAIN_TEXT), re.compile(_DNS1035_TEXT)
_QUALIFIED, _VALUE = re.compile(_QUALIFIED_TEXT), re.compile(_VALUE_TEXT)
_KEY = re.compile(_KEY_TEXT)

_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL_TEXT}')"
)
_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN_TEXT}')"
)
_DNS1035_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and "
    f"end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{_DNS1035_TEXT}')"
)
_QUALIFIED_MESSAGE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED_TEXT}')"
)
_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    f"with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_VALUE_TEXT}')"
)

ANNOTATIONS_LIMIT = 256 * 1024


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} characters"


def _check(text: str, pattern: re.Pattern[str], limit: int, message: str) -> list[str]:
    faults = [_too_long(limit)] if len(text) > limit else []
    if not pattern.fullmatch(text):
        faults.append(message)
    return faults


def dns1123_label(text: str) -> list[str]:
    """At most 63 of `a-z0-9-`: names of namespaces, containers, volumes."""
    found = _check(text, _LABEL, 63, _LABEL_MESSAGE)
    dotted = not dns1123_subdomain(text)
    return ["must not contain dots" if dotted and fault == _LABEL_MESSAGE else fault for fault in found]


def dns1123_subdomain(text: str) -> list[str]:
    """At most 253 characters, labels joined by dots: the names of most objects."""
    return _check(text, _SUBDOMAIN, 253, _SUBDOMAIN_MESSAGE)


def dns1035_label(text: str) -> list[str]:
    """A label that starts with a letter: names of services."""
    return _check(text, _DNS1035, 63, _DNS1035_MESSAGE)


def path_segment(text: str) -> list[str]:
    """What fits in a URL path: names of RBAC objects, which may hold colons."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{mark}'" for mark in "/%" if mark in text]


def qualified_name(text: str) -> list[str]:
    """`name` or `prefix.example.com/name`: keys of labels, annotations, finalizers."""
    parts = text.split("/")
    faults: list[str] = []
    if len(parts) == 2:
        if not parts[0]:
            faults.append("prefix part must be non-empty")
        else:
            faults += [f"prefix part {fault}" for fault in dns1123_subdomain(parts[0])]
    elif len(parts) != 1:
        return [
            f"a qualified name {_QUALIFIED_MESSAGE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    name = parts[-1]
    if not name:
        faults.append("name part must be non-empty")
    elif len(name) > 63:
        faults.append(f"name part {_too_long(63)}")
    if not _QUALIFIED.fullmatch(name):
        faults.append(f"name part {_QUALIFIED_MESSAGE}")
    return faults


def label_value(text: str) -> list[str]:
    return _check(text, _VALUE, 63, _VALUE_MESSAGE)


def config_key(text: str) -> list[str]:
    """A key of a ConfigMap or Secret."""
    if text in (".", ".."):
        return [f"must not be '{text}'"]
    if text.startswith(".."):
        return ["must not start with '..'"]
    message = (
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
        f"(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '{_KEY_TEXT}')"
    )
    return _check(text, _KEY, 253, message)


def environment_name(text: str) -> list[str]:
    """The name of an environment variable: any printable ASCII but `=`."""
    if text and all(" " <= mark <= "~" and mark != "=" for mark in text):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def port_name(text: str) -> list[str]:
    """An IANA service name: at most 15 of `a-z0-9-`, with a letter."""
    faults = [_too_long(15)] if len(text) > 15 else []
    if not re.fullmatch(r"[-a-z0-9]+", text):
        faults.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", text):
        faults.append("must contain at least one letter (a-z)")
    if "--" in text:
        faults.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        faults.append("must not begin or end with a hyphen")
    return faults


def invalid_value(field: str, value: Any, fault: str) -> Cause:
    """A cause in upstream's wording: `Invalid value: "x": fault`."""
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause(field, f"Invalid value: {shown}: {fault}")


def label_map(values: Mapping[str, Any] | None, field: str = "metadata.labels") -> list[Cause]:
    """Faults of a map of labels."""
    causes: list[Cause] = []
    for key, value in (values or {}).items():
        causes += [invalid_value(field, key, fault) for fault in qualified_name(key)]
        causes += [invalid_value(field, value, fault) for fault in label_value(value)]
    return causes


def annotation_map(values: Mapping[str, str] | None, field: str = "metadata.annotations") -> list[Cause]:
    """Faults of a map of annotations; together they may hold 256 KiB."""
    causes: list[Cause] = []
    size = 0
    for key, value in (values or {}).items():
        causes += [invalid_value(field, key, fault) for fault in qualified_name(key.lower())]
        size += len(key.encode()) + len(value.encode())
    if size > ANNOTATIONS_LIMIT:
        causes.append(Cause(field, f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes", "FieldValueTooLong"))
    return causes


NAME_RULES = {
    ("", "Namespace"): dns1123_label,
    ("", "Service"): dns1123_label,
    ("apps", "StatefulSet"): dns1123_label,
    ("rbac.authorization.k8s.io", "Role"): path_segment,
    ("rbac.authorization.k8s.io", "RoleBinding"): path_segment,
    ("rbac.authorization.k8s.io", "ClusterRole"): path_segment,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): path_segment,
}
"""(group, kind) -> the rule for its names, where it is not `dns1123_subdomain`."""


def object_name(group: str, kind: str, name: str) -> list[str]:
    """Faults of an object's name by the rule of its kind."""
    return NAME_RULES.get((group, kind), dns1123_subdomain)(name)
