"""ListOptions of a list or watch: what may go with what (meta.k8s.io, `ValidateListOptions`)."""

from __future__ import annotations

from sampan.cluster.apiserver.call import Call
from sampan.kube.errors import Cause, bad_request, invalid

MATCH = "resourceVersionMatch"


def version_of(call: Call) -> int | None:
    """The `resourceVersion` parameter; None when there is none. Raises ApiError 400."""
    text = call.query.get("resourceVersion", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        fault = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise bad_request(f"invalid resource version: {fault}")
    return int(text)


def check(call: Call, *, watch: bool) -> None:
    """Raises ApiError 400 for numbers that are none, 422 for options that exclude each other."""
    for name in ("timeoutSeconds", "limit"):
        text = call.query.get(name, "")
        digits = text.removeprefix("-")
        if text and not (digits.isascii() and digits.isdigit()):
            raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        if len(digits) > 18:
            raise bad_request(f'strconv.ParseInt: parsing "{text}": value out of range')
    causes = (_watch if watch else _list)(call)
    if causes:
        raise invalid("ListOptions", "", causes, "meta.k8s.io")


def _forbidden(message: str, field: str = MATCH) -> Cause:
    return Cause(field, f"Forbidden: {message}", "FieldValueForbidden")


def _unsupported(value: str, *supported: str) -> Cause:
    shown = ", ".join(f'"{one}"' for one in supported)
    return Cause(MATCH, f'Unsupported value: "{value}": supported values: {shown}', "FieldValueNotSupported")


def _watch(call: Call) -> list[Cause]:
    match, initial = call.query.get(MATCH, ""), call.query.get("sendInitialEvents")
    causes = []
    if initial is None and match:
        causes.append(_forbidden(f"{MATCH} is forbidden for watch unless sendInitialEvents is provided"))
    if initial is not None and match != "NotOlderThan":
        causes.append(_forbidden(f"sendInitialEvents requires setting {MATCH} to NotOlderThan"))
    if match and match != "NotOlderThan":
        causes.append(_unsupported(match, "NotOlderThan"))
    if call.query.get("continue"):
        causes.append(_forbidden(f"{MATCH} is forbidden when continue is provided"))
    return causes


def _list(call: Call) -> list[Cause]:
    match, version = call.query.get(MATCH, ""), call.query.get("resourceVersion", "")
    causes = []
    if match:
        if not version:
            causes.append(_forbidden(f"{MATCH} is forbidden unless resourceVersion is provided"))
        if call.query.get("continue"):
            causes.append(_forbidden(f"{MATCH} is forbidden when continue is provided"))
        if match not in {"Exact", "NotOlderThan"}:
            causes.append(_unsupported(match, "Exact", "NotOlderThan", ""))
        if match == "Exact" and version == "0":
            causes.append(_forbidden(f'{MATCH} "exact" is forbidden for resourceVersion "0"'))
    if call.query.get("sendInitialEvents") is not None:
        causes.append(_forbidden("sendInitialEvents is forbidden for list", "sendInitialEvents"))
    return causes
