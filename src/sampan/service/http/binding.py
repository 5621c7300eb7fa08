"""Binds the clients of the services a workload calls."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.model import Service
from sampan.service import bindings
from sampan.service.lifecycle import Stage
from sampan.service.process import Process


def bind_clients(process: Process, services: Sequence[Service]) -> None:
    called = set(process.workload.call_names)
    targets = {service.name: service for service in services if service.name in called}
    targets |= {call.name: call for call in process.workload.calls if isinstance(call, Service)}
    if not targets:
        return
    from sampan.service.http.client import HttpClient, Pool

    pool = Pool()
    process.add(Stage.RESOURCES, "connections to services", pool)
    for service in targets.values():
        service.bind(HttpClient(service.name, bindings.service_url(service.name), pool, process.registry))
        process.bound(service)
