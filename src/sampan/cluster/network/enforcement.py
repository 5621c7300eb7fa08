"""Keeps the router's rules true to NetworkPolicies, Namespaces, Pods and Services.

Guarantees: a pod's containers start after the rules know its address; a change is in force for new connections some
milliseconds after its event; rules are replaced as a whole, so no packet sees half of them. When the kernel refuses a
rule set, the last one stays: new pods wait, as `admit` fails; events of the policies concerned and the log say why; and
it is tried again until it is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from sampan.cluster.network import policy, rules
from sampan.cluster.network.pods import PodNetwork
from sampan.kube import kinds
from sampan.kube.objects import Object, key_of, namespace_of, uid_of
from sampan.operator.cache import Cache
from sampan.operator.events import Recorder

log = logging.getLogger("sampan.network")

_COALESCE = 0.002
_LEAST, _MOST = 0.5, 30.0  # seconds until refused rules are tried again
_SERVICE_LABEL = "kubernetes.io/service-name"


class Unenforced(OSError):
    """What NetworkPolicies say of a pod is not in force; the message says why."""


class Enforcement:
    """Follows the cluster through `cache` from `start` to `stop`."""

    def __init__(self, network: PodNetwork, cache: Cache) -> None:
        self._network = network
        self._policies = cache.informer(kinds.NETWORK_POLICY)
        self._namespaces = cache.informer(kinds.NAMESPACE)
        self._pods = cache.informer(kinds.POD)
        self._services = cache.informer(kinds.SERVICE)
        self._slices = cache.informer(kinds.ENDPOINT_SLICE)
        self._attached: dict[str, tuple[str, Object]] = {}  # UID -> address and pod
        self._wake = asyncio.Event()
        self._applied = asyncio.Condition()
        self._asked = self._done = 0
        self._failure = ""
        self._written = b""
        self._in_force: dict[str, str] = {}  # UID -> resourceVersion of each policy
        self._recorder = Recorder(cache.client, "network-policies")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        informers = (self._policies, self._namespaces, self._pods, self._services, self._slices)
        for informer in informers:
            informer.start()
            if informer is not self._pods:
                informer.add_handler(lambda _old, _new: self._change())
        self._pods.add_handler(self._pod_changed)
        self._task = asyncio.create_task(self._run(), name="network policies")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def admit(self, pod: Object, ip: str) -> None:
        """Returns when the rules know that the pod has this address. Raises Unenforced where they were refused."""
        self._attached[uid_of(pod)] = (ip, pod)
        self._change()
        mine = self._asked
        async with self._applied:
            await self._applied.wait_for(lambda: self._done >= mine)
        if self._failure:
            raise Unenforced(self._failure)

    def forget(self, pod: Object) -> None:
        """The pod has given its address back."""
        if self._attached.pop(uid_of(pod), None) is not None:
            self._change()

    def _change(self) -> None:
        self._asked += 1
        self._wake.set()

    def _pod_changed(self, _old: Object | None, new: Object | None) -> None:
        known = self._attached.get(uid_of(new)) if new else None
        if new and known and known[1]["metadata"].get("labels") != new["metadata"].get("labels"):
            self._attached[uid_of(new)] = (known[0], new)
            self._change()

    async def _run(self) -> None:
        for informer in (self._policies, self._namespaces, self._pods, self._services, self._slices):
            await informer.wait_synced()
        delay = _LEAST
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay if self._failure else None):
                    await self._wake.wait()
            await asyncio.sleep(_COALESCE)
            self._wake.clear()
            asked = self._asked
            policies = sorted(self._policies.list(), key=key_of)
            try:
                await self._apply(policies)
            except Exception as error:
                delay = min(2 * delay, _MOST) if self._failure else _LEAST
                self._refused(policies, error)
            else:
                self._failure = ""
                self._in_force = {uid_of(one): one["metadata"]["resourceVersion"] for one in policies}
            self._done = asked
            async with self._applied:
                self._applied.notify_all()

    def _refused(self, policies: list[Object], error: Exception) -> None:
        text = f"the rules of NetworkPolicies could not be put in force: {error}"
        if text != self._failure:
            log.error("%s; the last ones stay", text, exc_info=not isinstance(error, OSError))
        self._failure = text
        for one in policies:
            if self._in_force.get(uid_of(one)) != one["metadata"]["resourceVersion"]:
                self._recorder.warning(one, "NotEnforced", text)

    async def _apply(self, policies: list[Object]) -> None:
        namespaces = {obj["metadata"]["name"]: obj["metadata"].get("labels") or {} for obj in self._namespaces.list()}
        pods = [policy.pod_of(pod, ip) for ip, pod in self._attached.values()]
        isolation = policy.isolate(policies, namespaces, pods)
        batch = rules.compile_rules(
            self._network.number, isolation, frozenset(pod.ip for pod in pods), self._frontends() if policies else ()
        )
        if (content := batch.content()) != self._written:
            await self._network.apply(batch)
            self._written = content

    def _frontends(self) -> list[rules.Service]:
        found: list[rules.Service] = []
        by_service: dict[str, list[Object]] = {}
        for piece in self._slices.list():
            name = (piece["metadata"].get("labels") or {}).get(_SERVICE_LABEL)
            by_service.setdefault(f"{namespace_of(piece)}/{name}", []).append(piece)
        for service in sorted(self._services.list(), key=key_of):
            balancers = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
            addresses = tuple(ip for ip in (service["spec"].get("clusterIP"), *(b.get("ip") for b in balancers)) if ip)
            if addresses[:1] in ((), ("None",)):
                continue
            for port in service["spec"].get("ports") or ():
                backends = _backends(port, by_service.get(key_of(service)) or ())
                found.append(rules.Service(addresses, port["port"], backends))
        return found


def _backends(port: Object, pieces: list[Object] | tuple[()]) -> tuple[tuple[str, int], ...]:
    found = set()
    for piece in pieces:
        for published in piece.get("ports") or ():
            if (published.get("name") or "") == (port.get("name") or "") and published.get("port"):
                for endpoint in piece.get("endpoints") or ():
                    found |= {(ip, int(published["port"])) for ip in endpoint.get("addresses") or ()}
    return tuple(sorted(found))
