"""Binds the clients of the services a workload calls."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.model import Service
from sampan.service import bindings
from sampan.service.lifecycle import Stage
from sampan.service.process import Process


def bind_clients(process: Process, services: Sequence[Service]) -> None:
    """`process.shared` may hold what other rooms give to every client: "client endpoints" (a service's name -> its
    Endpoints or None), "client tls" (-> its SSLContext or None) and "caller token" (-> the Authorization in hand)."""
    called = set(process.workload.call_names)
    targets = {service.name: service for service in services if service.name in called}
    targets |= {call.name: call for call in process.workload.calls if isinstance(call, Service)}
    if not targets:
        return
    from sampan.service.http.client import HttpClient
    from sampan.service.http.pool import Pool

    pool = Pool()
    process.add(Stage.RESOURCES, "connections to services", pool)
    endpoints = process.shared.get("client endpoints")
    for name, service in targets.items():
        client = HttpClient(
            name,
            bindings.service_url(name),
            pool,
            process.registry,
            process.workload.policies.get(name),
            endpoints=endpoints(name) if endpoints is not None else None,
            tls=process.shared.get("client tls"),
            token=process.shared.get("caller token"),
        )
        service.bind(client)
        process.bound(service)
