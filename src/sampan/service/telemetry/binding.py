"""What a process starts of telemetry: exporters where the environment names a collector, the joining of libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampan import __version__
from sampan.imports import when_imported
from sampan.service.lifecycle import Stage
from sampan.service.telemetry import settings, structured, tracing
from sampan.service.telemetry.context import SAMPLER

if TYPE_CHECKING:
    from types import ModuleType

    from sampan.model import Service
    from sampan.service.http.middleware import Middleware
    from sampan.service.process import Process
    from sampan.service.telemetry.export import Exporter

_EXPORTER = "telemetry.traces"  # in Process.shared


def bind(process: Process, services: Sequence[Service] = ()) -> None:
    """Read the environment, and start what it asks for with the process."""
    sampling = settings.sampling()
    SAMPLER.configure(sampling.ratio, sampling.follow_parent, sampling.keep, sampling.slow_seconds)
    tracing.export_to(None)
    for signal in ("traces", "logs"):
        target = settings.target(signal)
        if target is not None:
            _export(process, target)
    if settings.enabled():
        when_imported("opentelemetry.trace", lambda module: _join(process, module))
    when_imported("structlog", lambda module: structured.join(module, process.output))


def _export(process: Process, target: settings.Target) -> None:
    from sampan.service.telemetry import otlp
    from sampan.service.telemetry.export import Exporter

    process.redactor.add(target.headers.values())
    resource = otlp.resource(settings.resource(process.workload.name))
    scope = otlp.scope("sampan", __version__)
    exporter = Exporter(target, resource, process.registry, process.redactor, scope)
    process.add(Stage.TELEMETRY, f"export of {target.signal}", exporter)
    if target.signal == "traces":
        process.shared[_EXPORTER] = exporter
        tracing.export_to(exporter.offer)
    else:
        process.output.exporter = exporter


def attach(process: Process, middleware: Middleware) -> None:
    """Have the server spans of `middleware` exported with the rest."""
    exporter: Exporter | None = process.shared.get(_EXPORTER)
    middleware.exporter = exporter
    if exporter is not None:
        exporter.before_stop.append(middleware.flush)


def _join(process: Process, module: ModuleType) -> None:
    from sampan.service.telemetry import bridge

    bridge.install(process.registry)
