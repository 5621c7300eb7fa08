"""CreateOptions, UpdateOptions, PatchOptions and DeleteOptions as query parameters (meta.k8s.io): what is refused."""

from __future__ import annotations

import json

from sampan.cluster.apiserver.call import Call
from sampan.kube.errors import Cause, invalid

OPTIONS = {
    "create": "CreateOptions",
    "update": "UpdateOptions",
    "patch": "PatchOptions",
    "delete": "DeleteOptions",
    "deletecollection": "DeleteOptions",
}
LONGEST_MANAGER = 128
VALIDATION = ("", "Ignore", "Strict", "Warn")


def check(call: Call, *, applies: bool = False) -> None:
    """Raises ApiError 422. `applies`: the patch is a server-side apply."""
    kind, query = OPTIONS[call.verb], call.query
    causes = [] if kind == "DeleteOptions" else _manager(query.get("fieldManager", ""), required=applies)
    if kind == "PatchOptions" and not applies and "force" in query:
        causes.append(Cause("force", "Forbidden: may not be specified for non-apply patch", "FieldValueForbidden"))
    dry = query.get("dryRun", "")
    if dry not in {"", "All"}:
        causes.append(_unsupported("dryRun", json.dumps([dry]), "All"))
    validation = query.get("fieldValidation", "")
    if kind != "DeleteOptions" and validation not in VALIDATION:
        causes.append(_unsupported("fieldValidation", json.dumps(validation), *VALIDATION))
    if causes:
        raise invalid(kind, "", causes, "meta.k8s.io")


def _unsupported(field: str, shown: str, *supported: str) -> Cause:
    choices = ", ".join(f'"{one}"' for one in supported)
    return Cause(field, f"Unsupported value: {shown}: supported values: {choices}", "FieldValueNotSupported")


def _manager(name: str, *, required: bool) -> list[Cause]:
    if not name:
        text = "Required value: is required for apply patch"
        return [Cause("fieldManager", text, "FieldValueRequired")] if required else []
    causes = []
    if len(name.encode()) > LONGEST_MANAGER:
        text = f"Too long: may not be more than {LONGEST_MANAGER} bytes"
        causes.append(Cause("fieldManager", text, "FieldValueTooLong"))
    wrong = next(((place, mark) for place, mark in enumerate(name) if not mark.isprintable()), None)
    if wrong:
        place, mark = wrong
        shown = "".join(m if m.isprintable() else f"\\x{ord(m):02x}" for m in name)
        text = f'Invalid value: "{shown}": invalid character U+{ord(mark):04X} (at position {place})'
        causes.append(Cause("fieldManager", text))
    return causes
