"""Settings and secrets from mounted files, re-read when they change, and checked before they take effect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sampan.service.bindings import Binding, BindingError, read_entries
from sampan.service.telemetry.logs import Redactor
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.config")

POLL_SECONDS: Final = 0.5

Print = tuple[tuple[str, int, int, int], ...]


def config_root() -> Path:
    return Path(os.environ.get("SAMPAN_CONFIG_ROOT", "/config"))


def fingerprint(directory: Path) -> Print:
    """Changes when a file of `directory` does, or when the `..data` link of a mounted volume is swapped."""
    found: list[tuple[str, int, int, int]] = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat()
                found.append((entry.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


def typed(entries: Mapping[str, Any], type: Any) -> Any:
    """`entries` (text, or JSON for structured fields) as `type`. ValueError says which field is wrong."""
    validate = getattr(type, "model_validate", None)
    if validate is not None:
        return validate({name: _plain(text, None) for name, text in entries.items()})
    fields = {field.encode_name: field.type for field in _fields(type)}
    values = {name: _plain(text, fields[name]) for name, text in entries.items() if name in fields}
    return msgspec.convert(values, type, strict=False)


def _fields(type: Any) -> tuple[msgspec.inspect.Field, ...]:
    info: Any = msgspec.inspect.type_info(type)
    fields: tuple[msgspec.inspect.Field, ...] = info.fields
    return fields


def _plain(text: Any, wanted: Any) -> Any:
    if not isinstance(text, str):
        return text
    if any(isinstance(kind, msgspec.inspect.StrType) for kind in getattr(wanted, "types", (wanted,))):
        return text[:-1] if text.find("\n") == len(text) - 1 else text  # the end of line that an editor adds
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            return msgspec.json.decode(stripped)
        except msgspec.DecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
    return stripped


class FileConfig:
    """Implements `model.bound.BoundConfig` over the directory `/config/NAME`; `defaults` fill what it does not name."""

    def __init__(self, name: str, type: Any, defaults: Mapping[str, Any], registry: Registry) -> None:
        self.name, self.type, self.defaults = name, type, dict(defaults)
        self.directory = config_root() / name
        self.reloads = registry.counter("config_reloads_total", "Changes of settings seen.", ("config", "outcome"))
        self._callbacks: list[Callable[[Any], None]] = []
        self._print = fingerprint(self.directory)
        try:
            self._value = self._read()
        except (ValueError, OSError, TypeError) as error:
            raise BindingError(f"settings {name!r} ({self.directory}): {error}") from error

    def _read(self) -> Any:
        entries = read_entries(self.directory) if self.directory.is_dir() else {}
        return typed({**self.defaults, **entries}, self.type)

    @property
    def value(self) -> Any:
        return self._value

    def on_change(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        self._callbacks.append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return end

    def poll(self) -> None:
        """Look for a change; a value that does not fit the type is refused and the old one stays."""
        now = fingerprint(self.directory)
        if now == self._print:
            return
        self._print = now
        try:
            value = self._read()
        except (ValueError, OSError, TypeError) as error:
            self.reloads.add(self.name, "refused")
            log.error("settings %s refused, the old ones stay: %s", self.name, error)
            return
        if value == self._value:
            return
        self._value = value
        self.reloads.add(self.name, "applied")
        log.info("settings %s changed", self.name)
        for callback in list(self._callbacks):
            try:
                callback(value)
            except Exception as error:
                log.error("settings %s: a subscriber failed: %s", self.name, error, exc_info=error)


class FileSecret:
    """Implements `model.bound.BoundSecret`; follows rotation, and has new values struck from logs as well."""

    def __init__(self, name: str, binding: Binding, directory: Path, redactor: Redactor) -> None:
        self.name, self.directory, self.redactor = name, directory, redactor
        self._values = dict(binding.values)
        if binding.uri:
            self._values.setdefault("uri", binding.uri)
        self._print = fingerprint(directory)

    def __getitem__(self, key: str) -> str:
        try:
            return self._values[key]
        except KeyError:
            raise KeyError(f"secret {self.name!r} has no key {key!r}") from None

    def poll(self) -> None:
        now = fingerprint(self.directory)
        if now == self._print or not self.directory.is_dir():
            return
        try:
            entries = read_entries(self.directory)
        except (OSError, ValueError) as error:
            log.error("secret %s not re-read: %s", self.name, type(error).__name__)
            return
        self._print = now
        self._values = {key: value.rstrip("\r\n") for key, value in entries.items() if key != "type"}
        self.redactor.add(self._values.values())
        log.info("secret %s changed", self.name)


async def watch(watched: list[FileConfig | FileSecret]) -> None:
    """Poll for ever: a stat of a few small files twice a second costs less than a watcher thread."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        for one in watched:
            one.poll()
