"""Binds Config and Secret; one task of the process watches all of them."""

from __future__ import annotations

import asyncio
from typing import Any

from sampan.model import Config, Secret, settings
from sampan.service import bindings
from sampan.service.bindings import BindingError
from sampan.service.configuration.files import FileConfig, FileSecret, watch
from sampan.service.lifecycle import Stage
from sampan.service.process import Process


class Watcher:
    def __init__(self) -> None:
        self.watched: list[FileConfig | FileSecret] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(watch(self.watched), name="watch")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _watcher(process: Process) -> Watcher:
    watcher = process.shared.get("configuration")
    if watcher is None:
        watcher = process.shared["configuration"] = Watcher()
        process.add(Stage.BACKGROUND, "configuration", watcher)
    assert isinstance(watcher, Watcher)
    return watcher


def bind_secret(process: Process, handle: Secret) -> None:
    binding = process.find(handle)
    missing = sorted(set(handle.keys) - set(binding.values) - ({"uri"} if binding.uri else set()))
    if missing:
        raise BindingError(f"binding {handle.directory} has no entry {', '.join(missing)}")
    secret = FileSecret(handle.name, binding, bindings.root() / handle.directory, process.redactor)
    handle.bind(secret)
    _watcher(process).watched.append(secret)


def bind_config(process: Process, handle: Config[Any]) -> None:
    config = FileConfig(handle.name, handle.type, settings.as_text(handle, {}), process.registry)
    handle.bind(config)
    _watcher(process).watched.append(config)
