"""What a process adds when its service speaks gRPC, or calls services that do."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sampan.model import Application, Service
from sampan.service.http.middleware import Middleware
from sampan.service.http.tls import Identity, from_environment
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, StartError, load_string

# What gRPC's core, which reads these when first used, would write beside our log: connections that come and go, and
# that it cannot follow a fork, which no service of ours does.
for _name, _value in (("GRPC_VERBOSITY", "ERROR"), ("GRPC_ENABLE_FORK_SUPPORT", "false")):
    os.environ.setdefault(_name, _value)

_WORDS = {"1": True, "on": True, "true": True, "0": False, "off": False, "false": False}


def bind_server(process: Process, service: Service, application: Application, middleware: Middleware) -> None:
    """Serve gRPC beside HTTP, behind the same guards. StartError when the declared function is not there."""
    declared = service.grpc
    if declared is None:
        return
    try:
        from sampan.service.rpc.handlers import Calls
        from sampan.service.rpc.server import Server
    except ImportError as error:
        raise StartError(f"{service!r} speaks gRPC: pip install 'sampan[grpc]' ({error})") from error
    add_services = load_string(declared.services, f"grpc of service {service.name!r},")
    if not callable(add_services):
        raise StartError(f"grpc of service {service.name!r}: {declared.services} is not a function")
    server = Server(
        declared,
        add_services,
        Calls(
            process.registry,
            process.output,
            process.identity,
            lambda: middleware.guards,
            lambda: process.readiness.draining,
        ),
        process.readiness,
        host=os.environ.get("SAMPAN_POD_IP") or "0.0.0.0",  # noqa: S104  # a pod's address is its own
        port=int(os.environ.get("GRPC_PORT") or declared.port),
        reflection=_reflection(declared.reflection, application),
        identity=_identity(process),
    )
    process.add(Stage.SERVERS, "grpc", server)


def _identity(process: Process) -> Identity | None:
    """The one TLS identity of the process; None where SAMPAN_TLS_DIRECTORY names none."""
    if "tls identity" not in process.shared:
        process.shared["tls identity"] = from_environment(registry=process.registry)
    found: Identity | None = process.shared["tls identity"]
    return found


def _reflection(declared: bool | None, application: Application) -> bool:
    """SAMPAN_GRPC_REFLECTION, else as declared, else where the backing stores are local."""
    stated = _WORDS.get(os.environ.get("SAMPAN_GRPC_REFLECTION", "").lower())
    if stated is not None:
        return stated
    if declared is not None:
        return declared
    name = os.environ.get("SAMPAN_ENVIRONMENT", "dev")
    return application.environment(name).is_local


def bind_clients(process: Process, services: Sequence[Service]) -> None:
    """A channel for each called service that speaks gRPC, or whose gRPC address is given."""
    called = set(process.workload.call_names)
    targets = {service.name: service for service in services if service.name in called}
    targets |= {call.name: call for call in process.workload.calls if isinstance(call, Service)}
    speaking = [service for service in targets.values() if service.grpc or os.environ.get(service.rpc_variable)]
    if not speaking:
        return
    try:
        from sampan.service.rpc.client import Channel, target_of
    except ImportError as error:
        raise StartError(f"{process.workload!r} calls gRPC: pip install 'sampan[grpc]' ({error})") from error

    endpoints = process.shared.get("rpc endpoints")
    for service in speaking:
        channel = Channel(
            service,
            target_of(service),
            process.registry,
            process.workload.policies.get(service.name),
            getattr(service.client, "breaker", None),
            identity=_identity(process),
            token=process.shared.get("caller token"),
            endpoints=endpoints(service) if endpoints is not None else None,
        )
        process.add(Stage.RESOURCES, f"gRPC connections to {service.name}", channel)
        service.bind_rpc(channel)
