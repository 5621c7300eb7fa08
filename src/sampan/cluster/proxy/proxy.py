"""The proxy: follows Services, EndpointSlices, Ingresses and TLS Secrets, and keeps Envoy's files true to them.

Guarantees:
- An endpoint that turns ready takes traffic, and one that leaves takes no new one, within about 10 ms of its event.
- A changed endpoint touches only its own cluster's file: listeners of a Service that keeps its ports are never rebuilt,
  so no connection is cut. Requests in flight to an endpoint that left are finished.
- `drained(pod)` returns when Envoy has applied the endpoints without that pod.
- A frontend that cannot be bound is reported as an Event on its Service and spoils nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cluster.address import Slice, can_bind, keep_port
from sampan.cluster.network.frontend import alias
from sampan.cluster.proxy import ingress as ingresses
from sampan.cluster.proxy import resources, services
from sampan.cluster.proxy.envoy import Envoy, binary
from sampan.cluster.proxy.resources import Address, Resource
from sampan.cluster.proxy.services import Plan, Port
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.informer import Informer
from sampan.kube.objects import Object, key_of, name_of, namespace_of, uid_of
from sampan.kube.transport import MERGE_PATCH
from sampan.operator.cache import Cache
from sampan.operator.events import Recorder

if TYPE_CHECKING:
    from sampan.cluster.network.pods import PodNetwork

log = logging.getLogger("sampan.proxy")

_SERVICE_LABEL = "kubernetes.io/service-name"
_INGRESS = "ingress"
_API = "default/kubernetes"
_COALESCE = 0.002  # seconds: the events of one change arrive together
_RETRY = 0.3  # seconds until a port in use is tried again
_FALLBACK = 10_000  # added to a port that may not be bound


def _service_of(piece: Object) -> list[str]:
    name = (piece["metadata"].get("labels") or {}).get(_SERVICE_LABEL)
    return [f"{namespace_of(piece)}/{name}"] if name else []


class Proxy:
    """Runs Envoy in `directory` for the cluster that `cache` follows. `api` is where the API server listens; `ports`
    are the ingress's, plain and TLS, which the caller holds: without them it reserves two. With `lazily`, Envoy starts
    when there is something to carry: a Service (but the API's own), an Ingress, or a pod that may call the API's."""

    def __init__(
        self,
        cache: Cache,
        addresses: Slice,
        directory: Path,
        *,
        api: tuple[str, int] | None = None,
        ports: tuple[int, int] | None = None,
        network: PodNetwork | None = None,
        lazily: bool = False,
    ) -> None:
        self.client = cache.client
        self.addresses = addresses
        self.directory = directory
        self.envoy = Envoy(directory, network)
        self._network = network
        self.ingress_port, self.ingress_tls_port = ports or (0, 0)
        self._held: list[socket.socket] = []
        self._api = api
        self._events = Recorder(cache.client, "sampan-proxy")
        self._said: set[tuple[str, str, str]] = set()
        self._services = cache.informer(kinds.SERVICE)
        self._slices = cache.informer(kinds.ENDPOINT_SLICE, indexes={"service": _service_of})
        self._ingresses = cache.informer(kinds.INGRESS)
        self._secrets = cache.informer(kinds.SECRET, fields="type=kubernetes.io/tls")
        self._pods = cache.informer(kinds.POD) if lazily else None
        self._plans: dict[str, Plan] = {}
        self._clusters: dict[str, Resource] = {}
        self._files: dict[str, str] = {}  # cluster -> its endpoints file
        self._serial = 0
        self._endpoints: dict[str, tuple[Address, ...]] = {}  # cluster -> what its file says
        self._versions: dict[str, str] = {}  # cluster -> version of its file
        self._listeners: dict[Address, Resource] = {}
        self._written: dict[str, list[Resource]] = {}
        self._file_versions: dict[str, str] = {}  # statistic's prefix -> version
        self._promised: dict[str, str] = {}  # load balancer's address -> UID of its Service
        self._unbindable: dict[Address, str] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._draining: dict[str, None] = {}  # UIDs of pods being stopped, oldest first
        self._dirty: set[str] = set()
        self._ingress_dirty = True
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._statuses: set[asyncio.Task[None]] = set()

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start Envoy and follow the cluster. Returns when Envoy has been spawned, if that is not put off. Raises
        EnvoyMissing."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.ingress_port:
            self.ingress_port = self._reserve("ingress-port", 8080)
            self.ingress_tls_port = self._reserve("ingress-tls-port", 8443)
        self.envoy.prepare()
        self._write("cds/clusters.json", resources.CLUSTER, "cluster_manager.cds", [])
        self._write("rds/ingress.json", resources.ROUTES, "", [ingresses.unknown_yet(_INGRESS)])
        self._write_listeners()
        if self._pods is None:
            await self.envoy.start()
        else:
            binary()  # or it were missed later
            self._pods.add_handler(lambda old, new: self._wake.set() if not self.envoy.started else None)
        self._services.add_handler(lambda old, new: self._mark(key_of(new or old or {})))
        self._slices.add_handler(self._slice_changed)
        self._ingresses.add_handler(lambda old, new: self._mark_ingress())
        self._secrets.add_handler(lambda old, new: self._mark_ingress())
        for informer in self._informers:
            informer.start()  # no second start where the cache has begun
        self._task = asyncio.create_task(self._run(), name="proxy")

    @property
    def _informers(self) -> tuple[Informer, ...]:
        pods = (self._pods,) if self._pods is not None else ()
        return (self._services, self._slices, self._ingresses, self._secrets, *pods)

    def _has_work(self) -> bool:
        return bool(set(self._plans) - {_API} or self._ingresses.list() or (self._pods and self._pods.list()))

    async def stop(self) -> None:
        tasks = [task for task in (self._task, *self._statuses) if task]
        for task in tasks:
            task.cancel()
        if self._retry is not None:
            self._retry.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._events.flush()
        await self.envoy.stop()
        for holder in self._held:
            holder.close()

    @property
    def ingress_url(self) -> str:
        return f"http://127.0.0.1:{self.ingress_port}"

    def _reserve(self, name: str, preferred: int) -> int:
        port, holder = keep_port(self.directory / name, preferred)
        self._held.append(holder)
        return port

    # -- what the kubelet asks -------------------------------------------------------------------------------------

    async def drained(self, pod: Object, timeout: float = 2.0) -> bool:
        """Take a pod out of every Service, whatever its EndpointSlices still say, and wait until Envoy no longer sends
        it new requests. False when that did not happen within `timeout` seconds. Call it before the pod is stopped."""
        uid = uid_of(pod)
        self._draining[uid] = None
        if len(self._draining) > 2000:  # long gone: slices name only living pods
            self._draining.pop(next(iter(self._draining)))
        touched = set()
        for piece in self._slices.list():
            if any((e.get("targetRef") or {}).get("uid") == uid for e in piece.get("endpoints") or ()):
                touched.update(_service_of(piece))
        if not touched:
            return True
        for key in touched:
            self._reconcile_endpoints(key)
        if not self.envoy.started:
            return True
        names = [port.cluster for key in touched if key in self._plans for port in self._plans[key].ports]
        waiting = [(f"cluster.{name}", self._versions[name]) for name in names if name in self._versions]
        return await self.envoy.applied(waiting, timeout) if waiting else True

    async def settled(self, timeout: float = 5.0) -> bool:
        """Wait until Envoy has applied everything known here, where there is something to carry. False when that did
        not happen within `timeout` seconds. For tests and, as `/readyz/proxy`, for `up`."""
        try:
            async with asyncio.timeout(timeout):
                for informer in self._informers:
                    await informer.wait_synced()
        except TimeoutError:
            return False
        await asyncio.sleep(3 * _COALESCE)
        while self._wake.is_set():  # noqa: ASYNC110 (cleared by `_run`, which has no event for it)
            await asyncio.sleep(_COALESCE)
        if not self.envoy.started and not self._has_work():
            return True
        wanted = [(f"cluster.{name}", version) for name, version in self._versions.items()]
        wanted += list(self._file_versions.items())
        return await self.envoy.applied(wanted, timeout)

    # -- following -------------------------------------------------------------------------------------------------

    def _mark(self, key: str) -> None:
        self._dirty.add(key)
        self._ingress_dirty = True
        self._wake.set()

    def _mark_ingress(self) -> None:
        self._ingress_dirty = True
        self._wake.set()

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        for key in {*_service_of(old or new or {}), *_service_of(new or old or {})}:
            if key in self._plans and key not in self._dirty:
                self._reconcile_endpoints(key)  # at once: this is the path of a rolling update
            else:
                self._mark(key)

    async def _run(self) -> None:
        for informer in self._informers:
            await informer.wait_synced()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_COALESCE)
            self._wake.clear()
            try:
                self._reconcile()
                if not self.envoy.started and self._has_work():
                    await self.envoy.start()
            except Exception:
                log.exception("proxy: reconciling failed")

    def _reconcile(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for key in sorted(dirty):
            self._reconcile_service(key)
        if dirty:
            # endpoints first, then clusters, then listeners: nothing refers to what is not there yet
            self._write("cds/clusters.json", resources.CLUSTER, "cluster_manager.cds", list(self._clusters.values()))
        if self._ingress_dirty:
            self._ingress_dirty = False
            self._write_ingress()
        self._write_listeners()
        self._forget_clusters()

    def _reconcile_service(self, key: str) -> None:
        service = self._services.get(key)
        before = self._plans.pop(key, None)
        if service is None:
            return
        plan = services.plan(service, node=self.addresses.node, load_balancer=self._load_balancer(service))
        self._plans[key] = plan
        for port in plan.ports:
            if port.protocol not in {"http", "http2", "tcp"}:
                if before is None or port not in before.ports:
                    self._warn(
                        service,
                        "ProtocolNotSupported",
                        f"port {port.port}/{port.protocol.upper()} gets no listener: the proxy carries TCP only. "
                        "Pods reach each other by pod address.",
                    )
                continue
            if port.cluster not in self._files:
                self._serial += 1
                self._files[port.cluster] = f"eds/{self._serial}/endpoints.json"
            self._clusters[port.cluster] = resources.cluster(
                port.cluster,
                self.envoy.path(self._files[port.cluster]),
                http2=port.protocol == "http2",
                affinity=port.affinity,
            )
            if port.tls:
                file = self.envoy.path(self._files[port.cluster])
                secure = resources.cluster(port.cluster, file, affinity=port.affinity, tls=True)
                self._clusters[port.cluster + resources.OVER_TLS] = secure
        self._reconcile_endpoints(key)

    def _reconcile_endpoints(self, key: str) -> None:
        plan = self._plans.get(key)
        if plan is None:
            return
        slices = self._slices.by_index("service", key)
        draining = set(self._draining)
        for port in plan.ports:
            file = self._files.get(port.cluster)
            if file is None:
                continue
            wanted = tuple(services.ready_addresses(port, slices, draining))
            if not wanted and key == _API and self._api:
                wanted = (Address(*self._api),)
            before = self._endpoints.get(port.cluster)
            if before == wanted:
                continue
            if bool(before) != bool(wanted):
                self._wake.set()  # its listener comes or goes
            self._endpoints[port.cluster] = wanted
            assignment = resources.endpoints(port.cluster, wanted)
            self._versions[port.cluster] = self.envoy.write(file, resources.ENDPOINTS, [assignment])

    def _forget_clusters(self) -> None:
        ports = [port for plan in self._plans.values() for port in plan.ports]
        wanted = {port.cluster for port in ports} | {port.cluster + resources.OVER_TLS for port in ports if port.tls}
        gone = [name for name in self._clusters if name not in wanted]
        if not gone:
            return
        for name in gone:
            del self._clusters[name]
            self._endpoints.pop(name, None)
            self._versions.pop(name, None)
        self._write("cds/clusters.json", resources.CLUSTER, "cluster_manager.cds", list(self._clusters.values()))
        for name in gone:
            if name in self._files:
                self.envoy.remove(self._files.pop(name))

    # -- listeners -------------------------------------------------------------------------------------------------

    def _write(self, relative: str, kind: str, prefix: str, content: list[Resource]) -> None:
        """Write a file unless it says so already."""
        if self._written.get(relative) == content:
            return
        self._written[relative] = content
        version = self.envoy.write(relative, kind, content)
        if prefix:
            self._file_versions[prefix] = version

    def _write_listeners(self) -> None:
        wanted: dict[Address, tuple[Port, Object]] = {}
        for key, plan in self._plans.items():
            service = self._services.get(key)
            for at, port in plan.frontends:
                if service is None:
                    continue
                # Nobody behind it: refuse the connection, as kube-proxy does, not accept and drop it. HTTP answers 503.
                if port.protocol != "tcp" or self._endpoints.get(port.cluster):
                    wanted.setdefault(at, (port, service))
        listeners: dict[Address, Resource] = {}
        inside: list[Resource] = []
        for at, (port, service) in wanted.items():
            bound = self._bindable(at, service, taken=set(wanted))
            if self._network is None:
                if bound is not None:
                    listeners[bound] = services.listener(bound, port)
                continue
            # Twice: for the machine, and for the network of the pods, where every port can be had.
            if bound is not None:
                listeners[bound] = services.listener(Address(alias(bound.host), bound.port), port)
            if at.host not in ("127.0.0.1", self.addresses.node):
                inside.append(services.listener(at, port))
        self._unbindable = {at: reason for at, reason in self._unbindable.items() if at in wanted}
        self._listeners = listeners
        edge = self._ingress_listeners()
        self._write(
            "lds/listeners.json", resources.LISTENER, "listener_manager.lds", [*edge, *listeners.values(), *inside]
        )

    def _bindable(self, at: Address, service: Object, taken: set[Address]) -> Address | None:
        """Where the listener for `at` can be: there, on the fallback port, or nowhere; the last two with an Event."""
        if at in self._listeners:
            return at
        error = can_bind(at.host, at.port)
        if error is None:
            self._unbindable.pop(at, None)
            return at
        fallback = Address(at.host, at.port + _FALLBACK)
        usable = fallback in self._listeners or (
            at.port + _FALLBACK < 65536 and fallback not in taken and can_bind(at.host, fallback.port) is None
        )
        if error.errno == errno.EACCES:
            advice = (
                f"port {at.port} of {at.host} needs a privilege; to allow it run: "
                f"sudo sysctl -w net.ipv4.ip_unprivileged_port_start={at.port}"
            )
        else:
            usable = False  # somebody else answers there; a second port would only hide it
            advice = f"cannot listen on {at.host}:{at.port}: {error.strerror}"
        if usable:
            advice += f". Until then it answers on port {fallback.port}"
        # A listener that Envoy is just closing is still there for an instant: tell people when it lasts.
        if error.errno == errno.EACCES or self._unbindable.get(at) == advice:
            self._warn(service, "PortNotBindable", advice)
        self._unbindable[at] = advice
        if error.errno != errno.EACCES and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY, self._try_again)
        return fallback if usable else None

    def _try_again(self) -> None:
        self._retry = None
        self._wake.set()

    def _load_balancer(self, service: Object) -> str | None:
        """The address of a Service of type LoadBalancer: the one in its status, else a free one, which is put there."""
        if service["spec"].get("type") != "LoadBalancer":
            return None
        own = _status_ip(service)
        mine = list(self.addresses.load_balancers())
        if own in mine:
            return own
        everybody = self._services.list()
        living = {uid_of(other) for other in everybody}
        self._promised = {ip: uid for ip, uid in self._promised.items() if uid in living}
        for promised, uid in self._promised.items():
            if uid == uid_of(service):  # its status is on the way
                return promised
        taken = {_status_ip(other) for other in everybody}
        requested = service["spec"].get("loadBalancerIP")
        choices = [requested] if requested in mine else []
        address: str | None = next(
            (ip for ip in [*choices, *mine] if ip not in taken and ip not in self._promised), None
        )
        if address is None:
            self._warn(service, "NoLoadBalancerAddress", "all 253 addresses for load balancers are in use")
            return None
        self._promised[address] = uid_of(service)
        self._set_status(kinds.SERVICE, service, [{"ip": address, "ipMode": "VIP"}])
        return address

    # -- ingress ---------------------------------------------------------------------------------------------------

    def _write_ingress(self) -> None:
        mine = [obj for obj in self._ingresses.list() if ingresses.is_ours(obj)]
        table, problems = ingresses.route_table(_INGRESS, mine, self._resolve)
        self._write("rds/ingress.json", resources.ROUTES, "", [table])
        for problem in problems:
            self._warn(problem.ingress, "InvalidRule", problem.message)
        for obj in mine:
            if not (obj.get("status") or {}).get("loadBalancer", {}).get("ingress"):
                self._set_status(kinds.INGRESS, obj, [{"ip": "127.0.0.1"}])

    def _resolve(self, namespace: str, service: str, port: int | str) -> str | None:
        plan = self._plans.get(f"{namespace}/{service}")
        for candidate in plan.ports if plan else ():
            if port in {candidate.port, candidate.name} and candidate.protocol != "udp":
                return candidate.cluster + (resources.OVER_TLS if candidate.tls else "")
        return None

    def _ingress_listeners(self) -> list[Resource]:
        network = resources.http_filter(_INGRESS, edge=True, rds=self.envoy.path("rds/ingress.json"))
        plain = Address("127.0.0.1", self.ingress_port)
        found = [resources.listener("ingress", plain, [{"filters": [network]}])]
        chains = []
        named: set[str] = set()
        for obj in sorted(filter(ingresses.is_ours, self._ingresses.list()), key=key_of):
            for secret_key, hosts in ingresses.tls_hosts(obj):
                pair = _certificate(self._secrets.get(secret_key))
                fresh = [host for host in hosts if host not in named] if hosts else ([] if "" in named else [""])
                if pair is None or not fresh:
                    continue
                named.update(fresh)
                chains.append(resources.tls_chain([host for host in fresh if host], *pair, network))
        if chains:
            secure = Address("127.0.0.1", self.ingress_tls_port)
            found.append(resources.listener("ingress-tls", secure, chains, tls=True))
        return found

    def _warn(self, about: Object, reason: str, message: str) -> None:
        """An Event, once per object and message: the reason stays until somebody changes something."""
        if (said := (uid_of(about), reason, message)) not in self._said:
            self._said.add(said)
            self._events.warning(about, reason, message)

    def _set_status(self, kind: kinds.Resource, obj: Object, where: list[dict[str, Any]]) -> None:
        async def patch() -> None:
            body = {"status": {"loadBalancer": {"ingress": where}}}
            try:
                await self.client.patch(
                    kind, name_of(obj), namespace_of(obj), body, content_type=MERGE_PATCH, subresource="status"
                )
            except ApiError as error:
                if error.code != 404:
                    log.warning("status of %s %s not written: %s", kind.kind, key_of(obj), error)

        task = asyncio.create_task(patch())
        self._statuses.add(task)
        task.add_done_callback(self._statuses.discard)


def _status_ip(service: Object) -> str | None:
    entries = (service.get("status") or {}).get("loadBalancer", {}).get("ingress") or ()
    return next((str(entry["ip"]) for entry in entries if entry.get("ip")), None)


def _certificate(secret: Object | None) -> tuple[str, str] | None:
    data = (secret or {}).get("data") or {}
    try:
        return tuple(base64.b64decode(data[name]).decode() for name in ("tls.crt", "tls.key"))  # type: ignore[return-value]
    except (KeyError, ValueError):
        return None
