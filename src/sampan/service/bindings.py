"""Where the resources are: Service Binding directories, overridden by environment variables.

https://servicebinding.io/spec/core/1.1.0/ - a directory per binding, a file per key, always `type` and `uri`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

SECRET_KEYS: Final = frozenset({"password", "token", "secret", "access-key", "secret-key", "private-key", "uri"})


class BindingError(Exception):
    """A resource this process needs has no binding, or one that cannot be understood."""


class Binding:
    """`values` are the entries beside type and uri."""

    def __init__(self, name: str, type: str, uri: str, values: dict[str, str] | None = None) -> None:
        self.name, self.type, self.uri, self.values = name, type, uri, values or {}

    def secrets(self) -> list[str]:
        """What must never be printed: passwords in the URI and values under secret keys."""
        values = {key: value for key, value in self.values.items() if key != "provider"}
        found = [value for key, value in values.items() if key in SECRET_KEYS or self.type == "opaque"]
        password = urlsplit(self.uri).password
        if password:
            found += [password, unquote(password)]
        found += [value for key, value in parse_qsl(urlsplit(self.uri).query) if key in SECRET_KEYS]
        return [value for value in found if value]


def root() -> Path:
    return Path(os.environ.get("SERVICE_BINDING_ROOT", "/bindings"))


def read_entries(directory: Path) -> dict[str, str]:
    """Files of a mounted Secret or ConfigMap by name; without the dot names of its atomic update."""
    entries: dict[str, str] = {}
    for path in sorted(directory.iterdir()):
        if not path.name.startswith(".") and path.is_file():
            entries[path.name] = path.read_text(encoding="utf-8")
    return entries


def find(directory: str, variable: str = "", *, default_type: str = "") -> Binding:
    """The binding `directory`; the environment variable `variable` wins over its uri. BindingError when absent."""
    uri, entries, place = os.environ.get(variable, "") if variable else "", {}, root() / directory
    if place.is_dir():
        entries = {key: value.rstrip("\r\n") for key, value in read_entries(place).items()}
    kind = entries.pop("type", "")
    uri = uri or entries.pop("uri", "")
    if not uri and not entries:
        raise BindingError(
            f"no binding for {directory}: mount one at {place}" + (f" or set {variable}" * bool(variable))
        )
    uri = _located(uri)
    scheme = urlsplit(uri).scheme.partition("+")[0]
    return Binding(directory, scheme or kind or default_type, uri, entries)


def _located(uri: str) -> str:
    """A file on a volume, where volumes are not at their mount paths but below SAMPAN_VOLUME_ROOT."""
    volumes = os.environ.get("SAMPAN_VOLUME_ROOT", "")
    for scheme in ("sqlite:///", "file://"):
        path = uri.removeprefix(scheme)
        if volumes and path != uri and Path(f"{volumes}{path}").parent.is_dir():
            return f"{scheme}{volumes}{path}"
    return uri


def require_type(binding: Binding, allowed: Iterable[str]) -> None:
    wanted = sorted(allowed)
    if binding.type not in wanted:
        raise BindingError(f"binding {binding.name} is of type {binding.type!r}; here {', '.join(wanted)} can be used")


def service_url(name: str) -> str:
    """Where the service `name` is called."""
    variable = f"SAMPAN_SERVICE_{name.upper().replace('-', '_')}_URL"
    return os.environ.get(variable, f"http://{name}:8080").rstrip("/")
