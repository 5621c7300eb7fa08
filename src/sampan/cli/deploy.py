"""Objects into the cluster, and the wait until what they describe is Ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sampan.cli import trouble
from sampan.cli.failure import Failure
from sampan.cli.serving import until_served
from sampan.cli.view import View, is_ready, reason_of
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.informer import Informer
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, controller_of, is_deleting, name_of, namespace_of, parse_time, uid_of

MANAGER = "sampan"
_FIRST = ("Namespace", "CustomResourceDefinition")
_LAST = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod", "HorizontalPodAutoscaler")
# What an earlier `up` may have left behind. Never pruned: Secrets, volumes, namespaces hold what cannot be made again.
PRUNED = (
    kinds.DEPLOYMENT,
    kinds.STATEFUL_SET,
    kinds.CRON_JOB,
    kinds.JOB,
    kinds.SERVICE,
    kinds.INGRESS,
    kinds.CONFIG_MAP,
    kinds.HORIZONTAL_POD_AUTOSCALER,
    kinds.POD_DISRUPTION_BUDGET,
    kinds.NETWORK_POLICY,
    kinds.ROLE_BINDING,
    kinds.ROLE,
    kinds.SERVICE_ACCOUNT,
)
WORKLOADS = (kinds.DEPLOYMENT, kinds.STATEFUL_SET, kinds.DAEMON_SET)


async def apply(client: Client, objects: list[Object], default_namespace: str = "default") -> None:
    """Server-side apply as manager `sampan`: what others need first. Raises Failure with every refusal."""
    resources = [(await resource_of(client, obj, objects), obj) for obj in objects]
    errors: list[str] = []
    limit = asyncio.Semaphore(8)

    async def one(resource: Resource, obj: Object) -> None:
        if resource.namespaced and not namespace_of(obj):
            obj = {**obj, "metadata": {**obj["metadata"], "namespace": default_namespace}}
        async with limit:
            try:
                await client.apply(resource, obj, field_manager=MANAGER)
            except ApiError as error:
                errors.append(f"{obj['kind']} {name_of(obj)}: {error}")

    for rank in (0, 1, 2):
        await asyncio.gather(*(one(resource, obj) for resource, obj in resources if _rank(obj["kind"]) == rank))
        if errors:
            raise Failure("the cluster refused:\n  " + "\n  ".join(errors), 2)


async def keep_scale(client: Client, objects: list[Object]) -> list[Object]:
    """The objects, with Deployments that an autoscaler has scaled left at the size they have."""
    scaled = {
        (namespace_of(obj), obj["spec"]["scaleTargetRef"]["name"])
        for obj in objects
        if obj["kind"] == "HorizontalPodAutoscaler" and obj["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    }

    async def one(obj: Object) -> Object:
        if obj["kind"] != "Deployment" or (namespace_of(obj), name_of(obj)) not in scaled:
            return obj
        try:
            live = await client.get(kinds.DEPLOYMENT, name_of(obj), namespace_of(obj) or "default")
        except ApiError as error:
            if error.code == 404:
                return obj
            raise
        size = max(live["spec"].get("replicas", 1), obj["spec"].get("replicas", 1))
        return {**obj, "spec": {**obj["spec"], "replicas": size}}

    return list(await asyncio.gather(*(one(obj) for obj in objects)))


def _rank(kind: str) -> int:
    return 0 if kind in _FIRST else 2 if kind in _LAST else 1


async def resource_of(client: Client, obj: Object, among: Iterable[Object] = ()) -> Resource:
    """The resource of an object: built in, defined among these, or known to the cluster. Raises Failure."""
    found = kinds.find(obj["apiVersion"], obj["kind"])
    if found is not None:
        return found
    group, _, version = obj["apiVersion"].rpartition("/")
    definitions = [other for other in among if other["kind"] == "CustomResourceDefinition"]
    definitions += (await client.list(kinds.CUSTOM_RESOURCE_DEFINITION)).items
    for definition in definitions:
        spec = definition["spec"]
        if spec["group"] == group and spec["names"]["kind"] == obj["kind"]:
            names = spec["names"]
            singular = names.get("singular") or obj["kind"].lower()
            return Resource(group, version, obj["kind"], names["plural"], singular, spec["scope"] == "Namespaced")
    raise Failure(f"no kind {obj['kind']} in {obj['apiVersion']}; is its CustomResourceDefinition missing?", 2)


async def prune(client: Client, application: str, namespace: str, objects: list[Object]) -> list[str]:
    """Delete what an earlier `up` of the application made and this one did not; `Kind name` of each."""
    kept = {(obj["kind"], name_of(obj)) for obj in objects}
    labels = f"app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/part-of={application}"
    gone: list[str] = []

    async def one(resource: Resource) -> None:
        for obj in (await client.list(resource, namespace, labels=labels)).items:
            if (resource.kind, name_of(obj)) in kept or controller_of(obj) or is_deleting(obj):
                continue
            await client.delete(resource, name_of(obj), namespace)
            gone.append(f"{resource.kind} {name_of(obj)}")

    await asyncio.gather(*(one(resource) for resource in PRUNED))
    return sorted(gone)


def is_rolled_out(obj: Object) -> bool:
    """Whether a Deployment, StatefulSet or DaemonSet is as its spec says, in the manner of `kubectl rollout status`."""
    spec, status = obj["spec"], obj.get("status") or {}
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return False
    if obj["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        return bool(status.get("updatedNumberScheduled", 0) >= wanted and status.get("numberAvailable", 0) >= wanted)
    wanted = spec.get("replicas", 1)
    ready = status.get("availableReplicas", 0) if obj["kind"] == "Deployment" else status.get("readyReplicas", 0)
    if obj["kind"] == "StatefulSet" and status.get("currentRevision") != status.get("updateRevision"):
        return False
    return bool(
        status.get("replicas", 0) == wanted
        and ready >= wanted
        and (not wanted or status.get("updatedReplicas", 0) >= wanted)
    )


class Watcher:
    """Follows the workloads and pods of some namespaces while they come up.

    `started` is when the cluster process began (seconds since the epoch): what pods of an earlier life say is not
    believed until their containers run again. `told`: the pods' uids and containers whose failure has been said.
    """

    def __init__(
        self,
        client: Client,
        view: View,
        objects: list[Object],
        default_namespace: str = "default",
        started: float | None = None,
        *,
        told: set[tuple[str, str]] | None = None,
    ) -> None:
        self._started = started
        self._client = client
        self._view = view
        self._wanted = {
            (obj["kind"], namespace_of(obj) or default_namespace, name_of(obj))
            for obj in objects
            if obj["kind"] in {resource.kind for resource in WORKLOADS}
        }
        self._namespaces = {namespace_of(obj) or default_namespace for obj in objects}
        self._told = told if told is not None else set()
        self._changed = asyncio.Event()
        self._informers = [Informer(client, resource) for resource in (*WORKLOADS, kinds.POD)]

    async def until_ready(self, timeout: float) -> None:
        """Show pods until all is Ready and served. Raises Failure with what each unready pod last said."""
        for informer in self._informers:
            informer.add_handler(lambda old, new: self._changed.set())
            informer.start()
        try:
            async with asyncio.timeout(timeout):
                for informer in self._informers:
                    await informer.wait_synced()
                while True:
                    self._changed.clear()
                    self._view.pods(self.pods())
                    await self._tell_failures()
                    if self.ready():
                        break
                    await self._changed.wait()
                    await asyncio.sleep(0.02)  # one drawing for changes that come together
        except TimeoutError:
            raise Failure(await self._why(timeout)) from None
        else:
            await until_served(self._client, self.pods)
        finally:
            await asyncio.gather(*(informer.stop() for informer in self._informers))

    def pods(self) -> list[Object]:
        return [pod for pod in self._informers[-1].list() if namespace_of(pod) in self._namespaces]

    def ready(self) -> bool:
        present = {
            (informer.resource.kind, namespace_of(obj), name_of(obj)): obj
            for informer in self._informers[:-1]
            for obj in informer.list()
        }
        if not all(identity in present and is_rolled_out(present[identity]) for identity in self._wanted):
            return False
        return self._started is None or all(self._believed(pod) for pod in self.pods())

    def _believed(self, pod: Object) -> bool:
        """Whether a pod that must run does, in this life of the cluster."""
        owner = controller_of(pod)
        if is_deleting(pod) or owner is None or owner["kind"] not in {"ReplicaSet", "StatefulSet", "DaemonSet"}:
            return True
        states = [status.get("state") or {} for status in (pod.get("status") or {}).get("containerStatuses") or ()]
        begun = [parse_time(state["running"]["startedAt"]).timestamp() for state in states if "running" in state]
        # whole seconds: one that started in the second in which the cluster did is of this life
        return is_ready(pod) and bool(begun) and min(begun) >= int(self._started or 0)

    async def _tell_failures(self) -> None:
        """Say why a container failed, as soon as it has; once each."""
        for pod in self.pods():
            for container, words, earlier in trouble.failed(pod, self._started or 0.0):
                if (uid_of(pod), container) in self._told:
                    continue
                self._told.add((uid_of(pod), container))
                lines = await trouble.said(self._client, pod, container, earlier=earlier)
                self._view.say(
                    "\n".join([f"{name_of(pod)}: {container} {words}", *(f"  {line}" for line in lines)]),
                    event="failing",
                    pod=name_of(pod),
                    namespace=namespace_of(pod),
                    container=container,
                )

    async def _why(self, timeout: float) -> str:
        lines = [f"not Ready within {timeout:.0f} s"]
        for pod in sorted(self.pods(), key=name_of):
            if is_ready(pod) or (pod.get("status") or {}).get("phase") == "Succeeded" or is_deleting(pod):
                continue
            lines.append(f"\n{namespace_of(pod)}/{name_of(pod)}: {reason_of(pod)}")
            lines += [f"  {text}" for text in await trouble.everything(self._client, pod)]
        return "\n".join(lines)
