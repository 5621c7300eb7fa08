"""Binds Config and Secret. A Config's source is what its binding's uri names; without one, mounted files."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from sampan.model import Config, Secret, settings
from sampan.service import bindings
from sampan.service.bindings import Binding, BindingError
from sampan.service.configuration.files import FileSecret, FileSource, config_root, watch_secrets
from sampan.service.configuration.live import WAIT_AT_START, LiveConfig
from sampan.service.configuration.port import Source
from sampan.service.http.readiness import Check
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, load_string
from sampan.service.tasks import end

# scheme -> the class of its source, which takes the binding
SOURCES: Final = {
    "etcd": "sampan.service.configuration.etcd:EtcdSource",
    "etcds": "sampan.service.configuration.etcd:EtcdSource",
    "consul": "sampan.service.configuration.consul:ConsulSource",
    "consuls": "sampan.service.configuration.consul:ConsulSource",
}


class Secrets:
    """Follows every mounted secret of the process."""

    def __init__(self) -> None:
        self.watched: list[FileSecret] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(watch_secrets(self.watched), name="secrets")

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)


def bind_secret(process: Process, handle: Secret) -> None:
    binding = process.find(handle)
    missing = sorted(set(handle.keys) - set(binding.values) - ({"uri"} if binding.uri else set()))
    if missing:
        raise BindingError(f"binding {handle.directory} has no entry {', '.join(missing)}")
    secret = FileSecret(handle.name, binding, bindings.root() / handle.directory, process.redactor)
    handle.bind(secret)
    secrets = process.shared.get("secrets")
    if secrets is None:
        secrets = process.shared["secrets"] = Secrets()
        process.add(Stage.BACKGROUND, "secrets", secrets)
    secrets.watched.append(secret)


def open_source(handle: Config[Any], binding: Binding | None) -> Source:
    """BindingError for a uri that names no source."""
    if binding is None or not binding.uri:
        return FileSource(config_root() / handle.name)
    if binding.type == "file":
        return FileSource(Path(urlsplit(binding.uri).path))
    bindings.require_type(binding, [*SOURCES, "file"])
    source: Source = load_string(SOURCES[binding.type], "source")(binding)
    return source


def bind_config(process: Process, handle: Config[Any]) -> None:
    """The settings are read here, before the user's code is imported, so that it may use them at once."""
    try:
        binding: Binding | None = process.find(handle)
    except BindingError:
        binding = None
    config = LiveConfig(
        handle.name, handle.type, settings.as_text(handle, {}), open_source(handle, binding), process.registry
    )
    if isinstance(config.source, FileSource):
        entries = config.source.read()
        if isinstance(entries, Exception):
            raise BindingError(f"settings {handle.name!r} ({config.source.place}): {entries}")
        config.first(entries)
    else:
        assert binding is not None
        _read(config, dict(parse_qsl(binding.uri.partition("?")[2])))
    handle.bind(config)
    process.add(Stage.BACKGROUND, f"settings {handle.name}", config)
    process.checks.append(Check(f"settings {handle.name}", config.check, lambda: False))


def _read(config: LiveConfig, options: dict[str, str]) -> None:
    """Load once, on a loop of its own: that of the process does not run yet."""

    async def load() -> None:
        try:
            wait = float(options.get("wait", WAIT_AT_START))
            await config.load(wait, options.get("optional", "").lower() in ("true", "1", "yes"))
        finally:
            await config.source.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, load()).result()
