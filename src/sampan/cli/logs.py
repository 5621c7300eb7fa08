"""`sampan logs`: what the pods of a service say, merged, each line under its pod's name."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from sampan.cli.failure import Failure
from sampan.cli.process import ClusterProcess
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.https import HttpsTransport, tls_context
from sampan.kube.informer import Informer
from sampan.kube.objects import Object, key_of, labels_of, name_of, namespace_of, uid_of

_LABELS = ("app.kubernetes.io/name", "app", "k8s-app", "job-name", "batch.kubernetes.io/job-name")


async def lines(
    client: Client, pod: Object, container: str, *, follow: bool, tail: int, previous: bool = False
) -> AsyncIterator[str]:
    """The log of one container, or of its run before. Ends with the container when following. Raises ApiError."""
    import aiohttp

    transport = client.transport
    assert isinstance(transport, HttpsTransport)
    access = transport.access
    path = kinds.POD.path(namespace_of(pod), name_of(pod), "log")
    query = {"container": container, "follow": str(follow).lower(), "tailLines": str(tail)}
    if previous:
        query["previous"] = "true"
    authorization = access.authorization()
    headers = {"Authorization": authorization} if authorization else {}
    timeout = aiohttp.ClientTimeout(total=None if follow else 10, sock_connect=5)
    connector = aiohttp.TCPConnector(ssl=tls_context(access))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.get(access.server + path, params=query, headers=headers) as reply,
    ):
        if reply.status != 200:
            raise ApiError(reply.status, "Unknown", (await reply.text())[:400])
        rest = b""
        with contextlib.suppress(aiohttp.ClientPayloadError):
            async for chunk in reply.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.decode("utf-8", "replace")
        if rest:
            yield rest.decode("utf-8", "replace")


async def tail(client: Client, pod: Object, container: str, count: int, *, previous: bool = False) -> list[str]:
    """The last lines of a container, or of its run before, if it has said any."""
    import aiohttp

    try:
        return [line async for line in lines(client, pod, container, follow=False, tail=count, previous=previous)]
    except (ApiError, aiohttp.ClientError, TimeoutError, OSError):
        return []


def belongs(pod: Object, name: str) -> bool:
    """Whether a pod is meant by `name`: its own name, its service's, or that of the workload above it."""
    if name_of(pod) == name or any(labels_of(pod).get(label) == name for label in _LABELS):
        return True
    owners = pod["metadata"].get("ownerReferences") or ()
    # a ReplicaSet or a CronJob's Job is named after what made it, with one more part
    made = ("ReplicaSet", "Job")
    return any(name in (o["name"], o["name"].rpartition("-")[0] if o["kind"] in made else "") for o in owners)


def connect(directory: str) -> Client:
    """A client of the running cluster. Raises Failure when none runs."""
    process = ClusterProcess(Path(directory))
    if process.pid() is None or not process.info():
        raise Failure(f"no cluster runs in {directory}; start one with: sampan up")
    return Client(HttpsTransport.from_kubeconfig(process.kubeconfig))


def logs(arguments: argparse.Namespace) -> int:
    client = connect(arguments.directory)
    return asyncio.run(_Logs(client, arguments).run())


class _Logs:
    def __init__(self, client: Client, arguments: argparse.Namespace) -> None:
        self._client = client
        self._name: str = arguments.name
        self._follow: bool = arguments.follow
        self._namespace: str | None = arguments.namespace
        self._tail: int = arguments.tail
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._colour = sys.stdout.isatty()

    async def run(self) -> int:
        try:
            pods = [p for p in (await self._client.list(kinds.POD, self._namespace)).items if belongs(p, self._name)]
            if not pods and not self._follow:
                raise Failure(f"no pod belongs to {self._name!r}; `sampan status` lists them")
            for pod in sorted(pods, key=key_of):
                self._begin(pod)
                if not self._follow:
                    await asyncio.gather(*self._tasks.values())
            if self._follow:
                informer = Informer(self._client, kinds.POD, namespace=self._namespace)
                informer.add_handler(lambda old, new: self._begin(new) if new and belongs(new, self._name) else None)
                await informer.run()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self._client.transport.close()
        return 0

    def _begin(self, pod: Object) -> None:
        statuses = pod.get("status") or {}
        started = [
            (status["name"], status.get("restartCount", 0))
            for status in (*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ()))
            if (status.get("state") or {}).keys() & {"running", "terminated"}
        ]
        for container, restarts in started:
            identity = (uid_of(pod), f"{container}/{restarts}")
            if identity not in self._tasks:
                self._tasks[identity] = asyncio.create_task(self._print(pod, container))

    async def _print(self, pod: Object, container: str) -> None:
        prefix = name_of(pod) if len(pod["spec"]["containers"]) == 1 else f"{name_of(pod)} {container}"
        if self._colour:
            prefix = f"\x1b[{31 + sum(map(ord, name_of(pod))) % 6}m{prefix}\x1b[0m"
        try:
            async for line in lines(self._client, pod, container, follow=self._follow, tail=self._tail):
                print(f"{prefix} | {line}", flush=self._follow)
        except ApiError as error:
            print(f"{prefix} : {error.message}", file=sys.stderr)
