"""ConfigMap, Secret and ServiceAccount."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import CONFIG_KEY, Faults, sub
from sampan.kube.objects import Object

LIMIT = 1024 * 1024
_FROZEN = "field is immutable when `immutable` is set"


def _frozen(faults: Faults, new: Object, old: Object, fields: tuple[str, ...]) -> None:
    if old.get("immutable"):
        if not new.get("immutable"):
            faults.forbidden("immutable", _FROZEN)
        for field in fields:
            if (new.get(field) or {}) != (old.get(field) or {}):
                faults.forbidden(field, _FROZEN)


class ConfigMap(TableStrategy):
    def validate(self, faults: Faults, obj: Object) -> None:
        total = 0
        for field in ("data", "binaryData"):
            for key, value in (obj.get(field) or {}).items():
                for message in CONFIG_KEY(key):
                    faults.invalid(f"{field}[{key}]", key, message)
                if field == "data":
                    total += len(value.encode()) if isinstance(value, str) else 0
                else:
                    total += _decoded(faults, f"{field}[{key}]", value)
        for key in sub(obj, "data").keys() & sub(obj, "binaryData").keys():
            faults.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
        if total > LIMIT:
            faults.too_long("", LIMIT)

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        _frozen(faults, new, old, ("data", "binaryData"))


def _decoded(faults: Faults, path: str, value: Any) -> int:
    try:
        return len(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, TypeError):
        faults.invalid(path, value if isinstance(value, str) and len(value) < 32 else "...", "must be base64 encoded")
        return 0


_REQUIRED_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


class Secret(TableStrategy):
    rows: ClassVar[Rows] = (("type", "Opaque"),)
    fields: ClassVar[dict[str, str]] = {"type": ""}
    immutable = ("type",)

    def default(self, obj: Object) -> None:
        super().default(obj)
        plain = obj.get("stringData")
        if isinstance(plain, dict) and all(isinstance(value, str) for value in plain.values()):
            data = obj.get("data")
            obj["data"] = {
                **(data if isinstance(data, dict) else {}),
                **{key: base64.b64encode(value.encode()).decode() for key, value in plain.items()},
            }
            del obj["stringData"]

    def validate(self, faults: Faults, obj: Object) -> None:
        data = obj.get("data") or {}
        total = 0
        for key, value in data.items():
            for message in CONFIG_KEY(key):
                faults.invalid(f"data[{key}]", key, message)
            try:  # the value itself never goes into a message
                total += len(base64.b64decode(value or "", validate=True))
            except (binascii.Error, ValueError, TypeError):
                faults.invalid(f"data[{key}]", "<secret contents redacted>", "must be base64 encoded")
        if total > LIMIT:
            faults.too_long("data", LIMIT)
        type = obj.get("type") or ""
        for key in _REQUIRED_KEYS.get(type, ()):
            if key not in data:
                faults.required(f"data[{key}]")
        if type == "kubernetes.io/basic-auth" and not data.keys() & {"username", "password"}:
            faults.required("data[username]")
            faults.required("data[password]")
        if type == "kubernetes.io/service-account-token":
            annotation = "kubernetes.io/service-account.name"
            if not (obj["metadata"].get("annotations") or {}).get(annotation):
                faults.required(f"metadata.annotations[{annotation}]")
        if type == "kubernetes.io/dockerconfigjson" and ".dockerconfigjson" in data:
            try:
                json.loads(base64.b64decode(data[".dockerconfigjson"]))
            except ValueError:
                faults.invalid("data[.dockerconfigjson]", "<secret contents redacted>", "must be valid JSON")

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        _frozen(faults, new, old, ("data",))


STRATEGIES = {("", "ConfigMap"): ConfigMap(), ("", "Secret"): Secret(), ("", "ServiceAccount"): TableStrategy()}
