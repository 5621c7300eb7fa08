"""The kubelet: follows the pods of this node, runs each, and opens their streams to the API server (`NodeRuntime`)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.cluster.kubelet import hosts, logreader, node, sessions, usage
from sampan.cluster.kubelet.cgroups import Groups, Unavailable
from sampan.cluster.kubelet.containers import ContainerRunner
from sampan.cluster.kubelet.environment import total_memory
from sampan.cluster.kubelet.images import Images
from sampan.cluster.kubelet.node import NODE_NAME, Addresses, Drained, Services
from sampan.cluster.kubelet.pods import PodWorker
from sampan.cluster.kubelet.source import ClusterSource
from sampan.cluster.kubelet.volumes import Volumes
from sampan.cluster.kubelet.zygote import Capabilities, Container, Zygote
from sampan.cluster.runtime import ByteStream, ExecRequest, ExecStreams, LogOptions, Usage
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import bad_request, not_found
from sampan.kube.informer import Informer
from sampan.kube.objects import Object, key_of, uid_of
from sampan.kube.quantity import parse
from sampan.operator.events import Recorder

if TYPE_CHECKING:
    from sampan.cluster.network.enforcement import Enforcement
    from sampan.cluster.network.pods import PodNetwork

log = logging.getLogger(__name__)

STOP_GRACE = 10.0
HOSTS_DEBOUNCE = 0.02
EVICTION_ROUNDS = 3  # of measuring, between looks at volumes that have a size


class Kubelet:
    """Runs every pod bound to the node `sampan` as processes of this machine.

    `directory` is the cluster's (`.sampan`); `slice_prefix` is `127.N`; `network`, where pods have one of their own;
    `drained(pod)` resolves once the proxy sends a
    terminating pod nothing new (waited for at most 2 s).
    """

    def __init__(
        self,
        client: Client,
        directory: Path,
        slice_prefix: str,
        zygote: Zygote,
        *,
        drained: Drained | None = None,
        api_address: str = "127.0.0.1:443",
        network: PodNetwork | None = None,
    ) -> None:
        self._client = client
        self._directory = directory
        self._zygote = zygote
        self._drained = drained
        self._api_address = api_address
        self._network = network
        self.enforcement: Enforcement | None = None  # of NetworkPolicies; set before the start
        self._addresses = Addresses(network.prefix if network else slice_prefix, f"{slice_prefix}.0.1")
        self._recorder = Recorder(client, "kubelet")
        self._source = ClusterSource(client, self._source_changed)
        self._pods = Informer(client, kinds.POD, fields="")
        self._service_objects = Informer(client, kinds.SERVICE)
        self._workers: dict[str, PodWorker] = {}
        self._meters: dict[int, usage.Meter] = {}
        self._hosts_lines: dict[str, list[str]] = {}
        self._hosts_timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._services: Services | None = None
        self._stopping = False
        self.capabilities = Capabilities()
        self.limits = ""
        self._keeper: socket.socket | None = None
        self._groups: Groups | None = None

    async def start(self) -> None:
        """Register the node and take up its pods. Returns when every existing pod has its worker."""
        self.capabilities = await self._zygote.capabilities()
        pods_directory = self._directory / "pods"
        pods_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._services = Services(
            client=self._client,
            recorder=self._recorder,
            source=self._source,
            images=Images(self._directory / "images"),
            zygote=self._zygote,
            addresses=self._addresses,
            directory=pods_directory,
            authority=self._directory / "pki" / "ca.crt",
            capabilities=self.capabilities,
            api_address=self._api_address,
            hosts=self._lines,
            groups=self._limits(),
            network=self._network,
            admit=self.enforcement.admit if self.enforcement else None,
            forget=self.enforcement.forget if self.enforcement else None,
            drained=self._drained,
            finished=self._finished,
        )
        await node.register(self._client, self._addresses.node)
        self._service_objects.start()
        self._pods.start()
        await asyncio.gather(self._source.start(), self._service_objects.wait_synced(), self._pods.wait_synced())
        known = set()
        for pod in self._pods.list():
            known.add(uid_of(pod))
            self._addresses.reserve((pod.get("status") or {}).get("podIP") or "")
        for path in pods_directory.iterdir():
            if path.name not in known:  # its pod was deleted while no kubelet ran
                Volumes(path, self._source).remove()
                await asyncio.to_thread(shutil.rmtree, path, True)
        self._pods.add_handler(self._pod_changed)
        self._service_objects.add_handler(lambda _old, _new: self._schedule_hosts())
        self._tasks = [
            asyncio.create_task(node.heartbeat(self._client), name="node heartbeat"),
            asyncio.create_task(self._measure(), name="usage"),
        ]

    async def stop(self) -> None:
        """End every container gracefully (at most 10 s); the pods' objects stay, to continue later."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pods.stop()
        await asyncio.gather(*(worker.shut_down(STOP_GRACE) for worker in list(self._workers.values())))
        await self._service_objects.stop()
        await self._source.stop()
        if self._hosts_timer is not None:
            self._hosts_timer.cancel()
        await self._recorder.flush()
        if self._groups is not None and self._keeper is not None:
            await asyncio.to_thread(self._groups.close)
            self._keeper.close()

    def _limits(self) -> Groups | None:
        """Control groups for containers, removed after our end; None where the system lets us make none."""
        name = f"sampan-{os.getuid()}-{hashlib.sha256(os.fsencode(self._directory.resolve())).hexdigest()[:12]}"
        try:
            if os.environ.get("SAMPAN_ISOLATION") == "none":
                raise Unavailable("SAMPAN_ISOLATION=none")
            self._groups = Groups.find(name)
        except Unavailable as error:
            self.limits = f"memory is watched, CPU is not limited ({error})"
            return None
        self._keeper = self._zygote.keeper(self._groups.directories)
        self.limits = f"in force (cgroup v{self._groups.version}: memory, CPU, processes)"
        return self._groups

    # Following

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None and self._services is not None
        if pod["spec"].get("nodeName") != NODE_NAME:
            return
        self._schedule_hosts()
        worker = self._workers.get(uid_of(pod))
        if new is None:
            if worker is not None:
                worker.gone()
        elif worker is None:
            if not self._stopping:
                self._workers[uid_of(pod)] = PodWorker(self._services, new)
        else:
            worker.update(new)

    def _finished(self, worker: PodWorker) -> None:
        self._workers.pop(worker.uid, None)

    def _source_changed(self, kind: str, namespace: str, name: str) -> None:
        for worker in self._workers.values():
            if worker.pod["metadata"]["namespace"] == namespace and worker.uses(kind, name):
                worker.refresh()

    def _schedule_hosts(self) -> None:
        """Rewrite hosts files soon; many changes at once are one rewrite."""
        self._hosts_lines.clear()
        if self._hosts_timer is None and not self._stopping:
            self._hosts_timer = asyncio.get_running_loop().call_later(HOSTS_DEBOUNCE, self._write_hosts)

    def _write_hosts(self) -> None:
        self._hosts_timer = None
        for worker in self._workers.values():
            try:
                worker.write_hosts()
            except OSError as error:
                log.warning("hosts file of pod %s: %s", key_of(worker.pod), error)

    def _lines(self, namespace: str) -> list[str]:
        if namespace not in self._hosts_lines:
            self._hosts_lines[namespace] = hosts.service_lines(
                self._service_objects.list(), self._pods.list(), namespace
            )
        return self._hosts_lines[namespace]

    # Usage

    async def _measure(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(usage.INTERVAL)
            running = {
                runner.container.pid: runner
                for worker in self._workers.values()
                for runner in worker.runners
                if runner.container is not None and runner.container.pid
            }
            self._meters = {
                pid: self._meters.get(pid) or usage.Meter(pid, runner.group) for pid, runner in running.items()
            }
            for pid, meter in self._meters.items():
                meter.sample()
                await self._enforce_memory(running[pid], meter)
                await asyncio.sleep(0)
            if (rounds := rounds + 1) % EVICTION_ROUNDS == 0:
                for worker in list(self._workers.values()):
                    await worker.evict_if_overfull()

    async def _enforce_memory(self, runner: ContainerRunner, meter: usage.Meter) -> None:
        limit = ((runner.spec.get("resources") or {}).get("limits") or {}).get("memory")
        if (
            limit
            and runner.group is None
            and meter.memory > min(int(parse(str(limit))), total_memory())
            and runner.container is not None
        ):
            runner.oom_killed = True
            self._recorder.warning(runner.pod(), "OOMKilling", f"Container {runner.name} used more than {limit}")
            await runner.container.kill(9)

    def usage(self) -> dict[tuple[str, str], dict[str, Usage]]:
        found: dict[tuple[str, str], dict[str, Usage]] = {}
        for worker in self._workers.values():
            metadata = worker.pod["metadata"]
            for runner in worker.runners:
                meter = self._meters.get(runner.container.pid) if runner.container else None
                measured = meter.usage() if meter else None
                if measured is not None:
                    found.setdefault((metadata["namespace"], metadata["name"]), {})[runner.name] = measured
        return found

    # Streams

    def _worker(self, namespace: str, pod: str) -> PodWorker:
        for worker in self._workers.values():
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, pod):
                return worker
        raise not_found("pods", pod)

    def _runner(self, namespace: str, pod: str, name: str | None) -> ContainerRunner:
        worker = self._worker(namespace, pod)
        if not name:
            name = (worker.pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if not name:
            if len(worker.mains) > 1:
                names = " ".join(r.name for r in worker.mains)
                raise bad_request(f"a container name must be specified for pod {pod}, choose one of: [{names}]")
            return worker.mains[0]
        runner = worker.runner(name)
        if runner is None:
            raise bad_request(f"container {name} is not valid for pod {pod}")
        return runner

    def _running(self, namespace: str, pod: str, name: str | None) -> Container:
        runner = self._runner(namespace, pod, name)
        if runner.container is None or not runner.running:
            raise bad_request(f"container {runner.name} in pod {pod} is not running")
        return runner.container

    async def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        runner = self._runner(namespace, pod, options.container)
        start = runner.restarts - (1 if options.previous else 0)
        path = runner.directory / f"{start}.log"
        if not path.exists() and not options.previous:
            waiting = runner.state.get("waiting")
            earlier = runner.directory / f"{start - 1}.log"
            if start and earlier.exists():  # waiting in CrashLoopBackOff: the last run is what one wants to see
                path, start = earlier, start - 1
            elif waiting and not runner.running:
                why = waiting.get("message") or waiting["reason"]
                raise bad_request(f'container "{runner.name}" in pod "{pod}" is waiting to start: {why}')
        if options.previous and (start < 0 or not path.exists()):
            raise bad_request(f'previous terminated container "{runner.name}" in pod "{pod}" not found')

        def ended() -> bool:
            return runner.restarts != start or not runner.running

        async with contextlib.aclosing(logreader.read(path, options, ended)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    async def exec(self, namespace: str, pod: str, request: ExecRequest, streams: ExecStreams) -> int:
        if not request.command:
            raise bad_request("you must specify at least one command for the container")
        return await sessions.run_exec(self._running(namespace, pod, request.container), request, streams)

    async def attach(self, namespace: str, pod: str, request: ExecRequest, streams: ExecStreams) -> int:
        return await sessions.run_attach(self._running(namespace, pod, request.container), request, streams)

    async def dial(self, namespace: str, pod: str, port: int) -> ByteStream:
        worker = self._worker(namespace, pod)
        if not any(runner.running for runner in worker.runners):
            raise bad_request(f"pod {pod} is not running")
        return await sessions.dial(worker.ip, port, self._network if worker.namespace >= 0 else None, worker.namespace)
