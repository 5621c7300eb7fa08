"""Settings and secrets from mounted files, re-read when they change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from sampan.service.bindings import Binding, read_entries
from sampan.service.configuration.port import Entries, Malformed
from sampan.service.telemetry.logs import Redactor

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


class FileSource:
    """A directory with a file per field, as a ConfigMap or Secret is mounted. One that is not there has no entries.

    Polled: a stat of a few small files twice a second costs less than a watcher thread, and sees every kind of mount.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.place = directory, str(directory)
        self._print: Print = ()

    async def load(self) -> Entries:
        found = self.read()
        if isinstance(found, Malformed):
            raise found
        return found

    def read(self) -> Entries | Malformed:
        self._print = fingerprint(self.directory)
        try:
            return read_entries(self.directory) if self.directory.is_dir() else {}
        except (OSError, UnicodeDecodeError) as error:
            # swapped while it was read: the next look sees the new print, and all of it
            return Malformed(f"{type(error).__name__}: {error.strerror if isinstance(error, OSError) else error}")

    async def watch(self) -> AsyncIterator[Entries | Malformed]:
        while True:
            if fingerprint(self.directory) != self._print:
                yield self.read()
            await asyncio.sleep(POLL_SECONDS)

    async def check(self) -> None: ...

    async def close(self) -> None: ...


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


async def watch_secrets(secrets: list[FileSecret]) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        for one in secrets:
            one.poll()
