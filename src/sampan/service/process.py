"""What one process of a system holds: its identity, the bound handles of a workload, and what has to be started.

Each kind of resource has a function that binds it, in its own room; it is imported only where the kind is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sampan.model import Application, Bucket, Cache, Config, Database, Handle, Secret, Service, Topic
from sampan.model.application import Workload
from sampan.service import bindings
from sampan.service.bindings import BindingError
from sampan.service.http.readiness import Check, Readiness
from sampan.service.lifecycle import STOP, STOP_SECONDS, Component, Lifecycle, Stage
from sampan.service.telemetry import logs
from sampan.service.telemetry.metrics import Registry, add_process_metrics

if TYPE_CHECKING:
    from sampan.service.data.database import SqlDatabase

log = logging.getLogger("sampan")

_USAGE: Final = 2
_OURS: Final = os.path.dirname(__file__)  # noqa: PTH120  # pathlib is slower, at every start
_IMPORTLIB: Final = importlib.__file__ or ""


class StartError(Exception):
    """The process cannot start as declared; the message says what to mend."""


class ImportFailure(StartError):
    """A module of the user's raised while it was imported. `__cause__` is what, with the frames of his code alone."""


def cannot_start(command: str, error: StartError | BindingError) -> int:
    """Say why `command` cannot start. The exit code of a command that was given something wrong."""
    if isinstance(error, ImportFailure):  # in the log: it has a stack, and may hold what must be struck out
        log.critical("sampan %s: %s", command, error, exc_info=error.__cause__)
    else:
        print(f"sampan {command}: {error}", file=sys.stderr, flush=True)  # noqa: T201
    return _USAGE


async def completed(function: Callable[[], Any]) -> None:
    """Run what the user wrote to its end: a coroutine function here, any other in a thread."""
    if inspect.iscoroutinefunction(function):
        await function()
        return
    result = await asyncio.to_thread(function)
    if inspect.isawaitable(result):
        await result


def load_string(text: str, what: str) -> Any:
    """The object an import string "module:attribute" names. StartError when it does not resolve."""
    module_name, _, attribute = text.partition(":")
    if "" not in sys.path and (here := os.getcwd()) not in sys.path:  # noqa: PTH109
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and (module_name == absent or module_name.startswith(f"{absent}.")):
            raise StartError(f"{what} {text!r}: no module {absent!r} in {os.getcwd()} or on the path") from error  # noqa: PTH109
        if module_name.startswith("sampan."):
            raise
        raise _import_failure(f"{what} {text!r}", error) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise StartError(f"{what} {text!r}: {error}") from error
    return found


def _import_failure(what: str, error: Exception) -> ImportFailure:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((_OURS, "<frozen importlib", _IMPORTLIB)):
        trace = trace.tb_next
    error.__traceback__ = trace
    return ImportFailure(f"{what} cannot be imported: {type(error).__name__}: {error}")


def load_application() -> Application:
    """The Application that SAMPAN_APP ("module:attribute") names."""
    text = os.environ.get("SAMPAN_APP", "")
    if ":" not in text:
        raise StartError("SAMPAN_APP must name the application as module:attribute, for instance shop.system:shop")
    application = load_string(text, "SAMPAN_APP")
    if not isinstance(application, Application):
        raise StartError(f"SAMPAN_APP={text} is {type(application).__name__}, not an Application")
    return application


def named(things: Sequence[Any], name: str, what: str) -> Any:
    for thing in things:
        if thing.name == name:
            return thing
    raise StartError(f"no {what} {name!r}; there are: {', '.join(sorted(t.name for t in things)) or 'none'}")


def identity(name: str) -> dict[str, str]:
    """The fields that every log line bears."""
    fields = {"service": name, "version": os.environ.get("SAMPAN_VERSION", ""), "pod": os.environ.get("POD_NAME", "")}
    return {key: value for key, value in fields.items() if value}


class Process:
    """The bound handles of `workload`, and in `lifecycle` all that is started and stopped with the process.

    What a binder may use: `find` (the binding; its secrets are then struck from logs), `accesses` (the grants),
    `registry`, `redactor`, `add_resource`, `add`, `databases`, `shared`.
    """

    def __init__(self, workload: Workload, registry: Registry | None = None) -> None:
        self.workload = workload
        self.registry = registry or Registry()
        if registry is None:
            add_process_metrics(self.registry)
        self.redactor = logs.Redactor()
        self.identity = identity(workload.name)
        self.output = logs.configure(self.identity, self.redactor, os.environ.get("SAMPAN_LOG_LEVEL", "INFO"))
        self.lifecycle = Lifecycle()
        self.checks: list[Check] = []
        self.readiness = Readiness(self.checks, self.registry)
        self.databases: dict[str, SqlDatabase] = {}
        self.shared: dict[str, Any] = {}  # what several handles of one kind share, for instance the broker's connection
        self._bound: list[Handle | Service] = []

    def bind(self, services: Sequence[Service] = ()) -> None:
        """Bind every handle of the workload and the clients of what it calls. BindingError lists all that lack."""
        problems: list[str] = []
        for handle in self.workload.handles:
            try:
                load_string(BINDERS[type(handle)], "binder")(self, handle)
                self._bound.append(handle)
            except BindingError as error:
                problems.append(str(error))
        if problems:
            raise BindingError("\n".join(problems))
        if os.environ.get("SAMPAN_DISCOVERY") and self.workload.calls:
            load_string("sampan.service.discovery.binding:bind_discovery", "binder")(self)
        for after in AFTER_BINDING:
            load_string(after, "binder")(self, services)

    def find(self, handle: Handle) -> bindings.Binding:
        """The binding of `handle`. BindingError when there is none."""
        binding = bindings.find(handle.directory, handle.variable)
        self.redactor.add(binding.secrets())
        return binding

    def accesses(self, handle: Handle) -> set[str]:
        return {grant.access for grant in self.workload.grants if grant.handle is handle}

    def bound(self, thing: Handle | Service) -> None:
        """Have `thing` unbound when the process ends."""
        self._bound.append(thing)

    def add(self, stage: Stage, name: str, component: Component) -> None:
        self.lifecycle.add(stage, name, component)

    def add_resource(self, name: str, resource: Any, required: Callable[[], bool]) -> None:
        """`resource` has `async check()`, which readiness asks, and `async close()`. If not `required()`, its
        absence only degrades."""
        self.lifecycle.add(Stage.RESOURCES, name, _Resource(resource))
        self.checks.append(Check(name, resource.check, required))

    async def start(self, *stages: Stage) -> None:
        await self.lifecycle.start(*stages)

    async def stop(self, deadline: float | None = None, flush: Callable[[], None] | None = None) -> None:
        """Finish what is in hand, close every pool, `flush`, send the last telemetry, unbind. Never raises.

        `deadline` is of time.monotonic(); without one `lifecycle.STOP_SECONDS` from now.
        """
        deadline = time.monotonic() + STOP_SECONDS if deadline is None else deadline
        await self.lifecycle.stop(*(stage for stage in STOP if stage is not Stage.TELEMETRY), deadline=deadline)
        if flush is not None:
            flush()
        await self.lifecycle.stop(Stage.TELEMETRY, deadline=deadline)
        for handle in self._bound:
            with contextlib.suppress(Exception):
                handle.bind(None)


class _Resource:
    def __init__(self, resource: Any) -> None:
        self.resource = resource

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.resource.close()


# kind of handle -> "module:function", called with the process and the handle
BINDERS: Final[dict[type[Handle], str]] = {
    Database: "sampan.service.data.binding:bind",
    Cache: "sampan.service.cache.binding:bind",
    Topic: "sampan.service.messaging.binding:bind",
    Bucket: "sampan.service.objects.binding:bind",
    Secret: "sampan.service.configuration.binding:bind_secret",
    Config: "sampan.service.configuration.binding:bind_config",
}
# called with the process and all services of the application, when every handle is bound
AFTER_BINDING: Final = (
    "sampan.service.security.binding:provide",
    "sampan.service.telemetry.binding:bind",
    "sampan.service.http.binding:bind_clients",
    "sampan.service.rpc.binding:bind_clients",
    "sampan.service.messaging.binding:bind_relays",
)
