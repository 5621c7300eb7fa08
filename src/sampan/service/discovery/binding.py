"""Puts discovery to work in a process: a registration while it is ready, a balancer for each service it calls.

SAMPAN_DISCOVERY names the registry; without it callees are found by their names, as in any cluster's DNS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from operator import attrgetter
from typing import Final

from sampan.model import Grpc, Service
from sampan.service import bindings
from sampan.service.bindings import Binding, BindingError
from sampan.service.discovery.balancer import Balancer
from sampan.service.discovery.port import Away, Instance, Lease, Registry
from sampan.service.http.readiness import Check, Degraded, Readiness
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, load_string
from sampan.service.tasks import end

log = logging.getLogger("sampan.discovery")

VARIABLE: Final = "SAMPAN_DISCOVERY"
# scheme -> the class of its registry, which takes the binding
REGISTRIES: Final = {
    "etcd": "sampan.service.discovery.etcd:EtcdRegistry",
    "etcds": "sampan.service.discovery.etcd:EtcdRegistry",
    "consul": "sampan.service.discovery.consul:ConsulRegistry",
    "consuls": "sampan.service.discovery.consul:ConsulRegistry",
    "kubernetes": "sampan.service.discovery.kubernetes:KubernetesRegistry",
    "static": "sampan.service.discovery.static:StaticRegistry",
}
_FIRST_SET_SECONDS: Final = 3.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
_LOOK_SECONDS: Final = 1.0


def open_registry(process: Process) -> Registry:
    """The one registry of the process. The binding `discovery`, where mounted, adds credentials. BindingError."""
    found: Registry | None = process.shared.get("registry")
    if found is None:
        binding = bindings.find("discovery", VARIABLE)
        process.redactor.add(binding.secrets())
        kind = binding.uri.partition(":")[0]
        if kind not in REGISTRIES:
            raise BindingError(f"{VARIABLE}={kind}...: no such registry; there are: {', '.join(REGISTRIES)}")
        found = process.shared["registry"] = load_string(REGISTRIES[kind], "registry")(
            Binding("discovery", kind, binding.uri, binding.values)
        )
        process.add(Stage.RESOURCES, "registry", _Closing(found))
    return found


class _Closing:
    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.registry.close()


def bind_discovery(process: Process) -> None:
    """Balancers for callees, given to the clients as "client endpoints" and "rpc endpoints"; one whose address is set
    stays with it."""
    registry = open_registry(process)
    followers: dict[str, Follower] = {}

    def follow(service: str, balancer: Balancer) -> Balancer:
        if service in followers:
            followers[service].balancers.append(balancer)
            return balancer
        follower = followers[service] = Follower(registry, balancer)
        process.add(Stage.BACKGROUND, f"instances of {service}", follower)
        process.checks.append(Check(f"instances of {service}", follower.check, lambda: False))
        return balancer

    def endpoints(service: str) -> Balancer | None:
        if f"SAMPAN_SERVICE_{service.upper().replace('-', '_')}_URL" in os.environ:
            return None
        return follow(service, Balancer(service, process.registry))

    def rpc_endpoints(service: Service) -> Balancer | None:
        if service.rpc_variable in os.environ:
            return None
        balancer = Balancer(f"{service.name}/grpc", process.registry, address=attrgetter("grpc"))
        return follow(service.name, balancer)

    process.shared["client endpoints"] = endpoints
    process.shared["rpc endpoints"] = rpc_endpoints


def bind_registration(process: Process, port: int, scheme: str) -> None:
    registration = Registration(open_registry(process), instance_of(process, port, scheme), process.readiness)
    process.add(Stage.REGISTRATION, "registration", registration)
    process.checks.append(Check("registration", registration.check, lambda: False))


def instance_of(process: Process, port: int, scheme: str) -> Instance:
    """This process as others call it: its pod's address, and otherwise the name of the machine."""
    host = os.environ.get("SAMPAN_POD_IP") or os.environ.get("POD_IP") or socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    name = os.environ.get("POD_NAME") or f"{socket.gethostname()}-{port}"
    known = {key: value for key in ("version",) if (value := process.identity.get(key))}
    declared: Grpc | None = getattr(process.workload, "grpc", None)
    grpc = f"{scheme}://{host}:{os.environ.get('GRPC_PORT') or declared.port}" if declared is not None else ""
    return Instance(process.workload.name, name, f"{scheme}://{host}:{port}", known, grpc)


class Follower:
    """Keeps the set of balancers of one service as the registry has it. While that is away the last set stays."""

    def __init__(self, registry: Registry, balancer: Balancer) -> None:
        self.registry, self.balancers = registry, [balancer]
        self.service = balancer.service.partition("/")[0]
        self.away = ""
        self._first = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns with the first set, or after a while without: calls then fail until there is one."""
        self._task = asyncio.create_task(self._follow(), name=f"instances of {self.service}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SET_SECONDS):
                await self._first.wait()

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def check(self) -> None:
        if self.away:
            raise Degraded(f"the registry does not answer, the last known are called: {self.away}")

    async def _follow(self) -> None:
        pause = _FIRST_WAIT
        while True:
            try:
                async for instances in self.registry.watch(self.service):
                    for balancer in self.balancers:
                        balancer.update(instances)
                    self._first.set()
                    self.away, pause = "", _FIRST_WAIT
            except Away as error:
                if not self.away:
                    log.warning("instances of %s are not followed: %s", self.service, error)
                self.away = str(error)
            except Exception as error:  # a fault of ours must not end the following
                self.away = f"{type(error).__name__}: {error}"
                log.error("instances of %s: %s", self.service, error, exc_info=error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_WAIT, pause * 2)


class Registration:
    """Lists the process while it is ready; renews, registers again what was lost, withdraws when it is not ready."""

    def __init__(self, registry: Registry, instance: Instance, readiness: Readiness) -> None:
        self.registry, self.instance, self.readiness = registry, instance, readiness
        self.away = ""
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None
        self._renewed = 0.0

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="registration")

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)
        await self._withdraw()

    async def check(self) -> None:
        if self.away:
            raise Degraded(f"not registered: {self.away}" if self._lease is None else f"not renewed: {self.away}")

    async def _keep(self) -> None:
        unready = 0
        while True:
            ready = (await self.readiness.report())[0]
            unready = 0 if ready else unready + 1
            try:
                if ready:
                    await self._hold()
                elif unready >= 2 and self._lease is not None:  # as a probe that fails twice
                    await self._withdraw()
                self.away = ""
            except Away as error:
                if not self.away:
                    log.warning("registration: %s", error)
                self.away = str(error)
            except Exception as error:  # a fault of ours must not end the registration
                self.away = f"{type(error).__name__}: {error}"
                log.error("registration: %s", error, exc_info=error)
            await asyncio.sleep(_LOOK_SECONDS if self.readiness.started else 0.02)

    async def _hold(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._lease is not None and self._lease.seconds and now - self._renewed >= self._lease.seconds / 3:
            if await self._lease.renew():
                self._renewed = now
            else:
                log.warning("the registration was lost: registering again")
                self._lease = None
        if self._lease is None:
            self._lease = await self.registry.register(self.instance)
            self._renewed = now
            log.info("registered", extra={"url": self.instance.url, "registry": self.registry.place})

    async def _withdraw(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await lease.end()
            except Away as error:
                log.warning("registration not removed, it ends by itself: %s", error)
