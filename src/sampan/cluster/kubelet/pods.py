"""One pod, from its first sight to its last: address, volumes, init containers, containers, status, graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable

from sampan.cluster.kubelet import hosts, joining, plain, status
from sampan.cluster.kubelet.containers import UNKNOWN_EXIT, ContainerRunner
from sampan.cluster.kubelet.ephemeral import Ephemerals
from sampan.cluster.kubelet.node import Services
from sampan.cluster.kubelet.source import ConfigError
from sampan.cluster.kubelet.volumes import TOKEN_REFRESH, Volumes
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, name_of, now, parse_time, uid_of

log = logging.getLogger(__name__)

DRAIN = 2.0
DEFAULT_GRACE = 30


class PodWorker:
    """Runs one pod. `update` gives it newer versions of its object; it ends when the object is gone."""

    def __init__(self, services: Services, pod: Object) -> None:
        self.services = services
        self.pod = pod
        self.uid = uid_of(pod)
        self.directory = services.directory / self.uid
        old = pod.get("status") or {}
        self.over = old.get("phase") in ("Succeeded", "Failed")
        host_network = bool(pod["spec"].get("hostNetwork"))
        self._owns_ip = not host_network and not self.over
        self.ip = (
            services.addresses.node
            if host_network
            else services.addresses.take(old.get("podIP") or "")
            if not self.over
            else old.get("podIP") or ""
        )
        self.namespace = -1  # descriptor of its own network, once it has one
        self.volumes = Volumes(self.directory, services.source)
        self.start_time = old.get("startTime") or now()
        self.initialized = False
        self.failure: tuple[str, str] | None = None
        self._gone = False
        self._written: Object | None = None
        self._dirty = asyncio.Event()
        self._changed = asyncio.Event()
        self._refresh = asyncio.Event()
        self._hosts_text = ""
        self.inits = [self._runner(spec) for spec in pod["spec"].get("initContainers") or ()]
        self.mains = [self._runner(spec) for spec in pod["spec"].get("containers") or ()]
        self._prepared = False
        self.ephemerals = Ephemerals(self._runner, lambda runner: self._start(runner, lambda _: False))
        self.ephemerals.follow(pod, ready=False)
        self._closed = self.over
        if self.over:
            for runner, entry in self._known(old):
                runner.show(entry)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._terminating = False
        self.task = asyncio.create_task(self._run(), name=f"pod {name_of(pod)}")

    def _runner(self, spec: Object) -> ContainerRunner:
        runner = ContainerRunner(
            self.services, lambda: self.pod, spec, volumes=self.volumes, directory=self.directory, ip=self.ip
        )
        runner.namespace = lambda: self.namespace
        runner.changed = self._dirty.set
        return runner

    def _known(self, old: Object) -> list[tuple[ContainerRunner, Object]]:
        known = {c["name"]: c for key in ("initContainerStatuses", "containerStatuses") for c in old.get(key) or ()}
        return [(r, known[r.name]) for r in self.runners if r.name in known]

    @property
    def runners(self) -> list[ContainerRunner]:
        return self.inits + self.mains + self.ephemerals.runners

    def runner(self, name: str) -> ContainerRunner | None:
        return next((r for r in self.runners if r.name == name), None)

    # What the kubelet tells it

    def update(self, pod: Object) -> None:
        if _version(pod) < _version(self.pod):
            return  # we have seen the answer to our own write already
        if pod["metadata"].get("labels") != self.pod["metadata"].get("labels") or pod["metadata"].get(
            "annotations"
        ) != self.pod["metadata"].get("annotations"):
            self._refresh.set()
        self.pod = pod
        self.ephemerals.follow(pod, ready=self._prepared and not (self.over or self._terminating))
        self._changed.set()

    def gone(self) -> None:
        """The object no longer exists: end everything at once."""
        self._gone = True
        self._changed.set()

    def refresh(self) -> None:
        """A ConfigMap or Secret that it uses changed."""
        self._refresh.set()

    def uses(self, kind: str, name: str) -> bool:
        """Whether a volume shows this ConfigMap or Secret (or a start waits for it)."""
        for volume in self.pod["spec"].get("volumes") or ():
            parts = (volume.get("projected") or {}).get("sources") or [volume]
            for part in parts:
                spec = part.get("configMap" if kind == "ConfigMap" else "secret")
                if spec and name in (spec.get("name"), spec.get("secretName")):
                    return True
        return False

    def write_hosts(self) -> None:
        text = hosts.render(self.pod, self.ip, self.services.hosts(self.pod["metadata"]["namespace"]))
        if text != self._hosts_text and self.directory.exists():
            self._hosts_text = text
            hosts.write_in_place(self.directory / "etc-hosts", text)

    # Its life

    async def _run(self) -> None:
        writer = asyncio.create_task(self._write_status())
        life = asyncio.create_task(self._live()) if not self.over else None
        refresher = asyncio.create_task(self._follow_sources()) if not self.over else None
        try:
            while not (is_deleting(self.pod) or self._gone):
                await self._changed.wait()
                self._changed.clear()
            self._terminating = True
            await self._terminate(life)
        except Exception:
            log.exception("pod %s: worker failed", name_of(self.pod))
        finally:
            await _cancel(writer, life, refresher, *self._tasks.values())
            await self._release()

    async def _live(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for runner in self.runners:
                runner.directory.mkdir(parents=True, exist_ok=True)
            if self._resume():
                await self._prepare()
                self._prepared = True
                self.ephemerals.follow(self.pod, ready=True)
                deadline = asyncio.create_task(self._deadline())
                try:
                    if await self._run_inits():
                        await self._run_mains()
                finally:
                    deadline.cancel()
            await self._stop_sidecars()
            self.over = True
            self._dirty.set()
            await self._leave_network()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("pod %s failed", name_of(self.pod))
            await self._fail("InternalError", str(error))

    def _resume(self) -> bool:
        """Continue from the status left by a former cluster process. False when the pod ended with it."""
        old = self.pod.get("status") or {}
        had_run = [runner.restore(entry) for runner, entry in self._known(old)]
        if any(had_run) and self.pod["spec"].get("restartPolicy") == "Never":
            for runner in self.mains:
                ended = runner.last_state.get("terminated") or {**UNKNOWN_EXIT, "finishedAt": now()}
                runner.state, runner.last_state = {"terminated": ended}, {}
                runner.restarts = max(0, runner.restarts - 1)
            self.initialized = True
            if any(r.exit_code for r in self.mains):
                self.failure = ("NodeLost", "The cluster stopped while the pod was running")
            return False
        return True

    async def _prepare(self) -> None:
        """Network, volumes and hosts file; waits for what is missing."""
        if self.services.network is not None and self._owns_ip:
            self.namespace = await joining.join(
                self.services, self.services.network, lambda: self.pod, self.ip, self._dirty.set
            )
            text = hosts.resolver(self.pod, self.services.network.router)
            hosts.write_in_place(plain.resolver_file(self.directory), text)
        self._hosts_text = ""
        self.write_hosts()
        delay = 0.2
        self._dirty.set()
        while True:
            self._refresh.clear()
            try:
                # The status may show in the downward API, so the pod carries its addresses before it is written.
                self.pod = {**self.pod, "status": {**(self.pod.get("status") or {}), **self._addresses()}}
                await self.volumes.prepare(self.pod)
                await self.volumes.prepare_access(self.pod, self.services.authority)
                return
            except (ConfigError, ApiError, OSError) as error:
                message = f"MountVolume.SetUp failed: {error}"
                if (
                    delay > 0.2
                ):  # a claim is often bound, a ConfigMap created, just after the pod: say it the second time
                    self.services.recorder.warning(self.pod, "FailedMount", message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._refresh.wait()
            delay = min(delay * 2, 10.0)

    async def _run_inits(self) -> bool:
        policy = self.pod["spec"].get("restartPolicy") or "Always"
        for runner in self.inits:
            if runner.spec.get("restartPolicy") == "Always":
                self._start(runner, lambda _: not self._terminating and not self.over)
                await runner.first_ready.wait()
                continue
            await runner.run(lambda code: code != 0 and policy != "Never")
            if runner.exit_code != 0:
                return False
        self.initialized = True
        self._dirty.set()
        return True

    async def _run_mains(self) -> None:
        policy = self.pod["spec"].get("restartPolicy") or "Always"

        def restart(code: int) -> bool:
            return policy == "Always" or (policy == "OnFailure" and code != 0)

        for runner in self.mains:
            self._start(runner, restart)
        await asyncio.gather(*(self._tasks[r.name] for r in self.mains))

    def _start(self, runner: ContainerRunner, restart: Callable[[int], bool]) -> None:
        self._tasks[runner.name] = asyncio.create_task(runner.run(restart), name=f"container {runner.name}")

    async def _leave_network(self) -> None:
        if self.namespace >= 0:
            os.close(self.namespace)
            self.namespace = -1
            if self.services.network is not None:
                with contextlib.suppress(OSError):  # its last process has ended, and the link with it
                    await self.services.network.detach(self.ip)
        if self._owns_ip:
            self._owns_ip = False
            if self.services.forget is not None:
                self.services.forget(self.pod)
            self.services.addresses.free(self.ip)

    async def _stop_sidecars(self) -> None:
        end = time.monotonic() + self._grace()
        await asyncio.gather(*(r.stop(lambda: end - time.monotonic()) for r in self.ephemerals.runners))
        for runner in reversed([r for r in self.inits if r.spec.get("restartPolicy") == "Always"]):
            await runner.stop(lambda: end - time.monotonic())

    async def _deadline(self) -> None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return
        spent = time.time() - parse_time(self.start_time).timestamp()
        await asyncio.sleep(max(0.0, seconds - spent))
        await self._fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")

    async def evict_if_overfull(self) -> None:
        """An emptyDir beyond its sizeLimit ends the pod."""
        if not self.initialized or self.failure is not None or self.over or self._terminating:
            return
        if message := await asyncio.to_thread(self.volumes.overfull, self.pod):
            self.services.recorder.warning(self.pod, "Evicted", message)
            await self._fail("Evicted", message)

    async def _fail(self, reason: str, message: str) -> None:
        self.failure = (reason, message)
        self._dirty.set()
        end = time.monotonic() + self._grace()
        await asyncio.gather(*(r.stop(lambda: end - time.monotonic()) for r in self.runners))
        for task in self._tasks.values():
            task.cancel()
        self._dirty.set()

    def _grace(self) -> float:
        seconds = self.pod["metadata"].get("deletionGracePeriodSeconds")
        if seconds is None:
            seconds = self.pod["spec"].get("terminationGracePeriodSeconds")
        return float(DEFAULT_GRACE if seconds is None else seconds)

    # Its end

    async def _terminate(self, life: asyncio.Task[None] | None) -> None:
        """Out of service first, then stopped, then deleted."""
        began = time.monotonic()

        def remaining() -> float:
            return 0.0 if self._gone else began + max(self._grace(), 0.0) - time.monotonic()

        if any(r.running for r in self.mains):
            for runner in self.mains:
                runner.stopping = True  # no probe makes it ready again
                runner.ready = False
            await self._flush()
            if self.services.drained and not self._gone and self._grace() > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN):
                        await self.services.drained(self.pod)
        for runner in self.runners:
            runner.stopping = True
        sidecars = [r for r in self.inits if r.spec.get("restartPolicy") == "Always"]
        await asyncio.gather(*(r.stop(remaining) for r in self.runners if r not in sidecars))
        for runner in reversed(sidecars):
            await runner.stop(remaining)
        # A container being started when its stop came has no process to signal; ending its task does.
        await _cancel(life, *(t for n, t in self._tasks.items() if not (r := self.runner(n)) or r.container is None))
        for task in self._tasks.values():
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if not self._gone:
            await self._flush()
            await self._delete()

    async def _delete(self) -> None:
        metadata = self.pod["metadata"]
        for delay in (0.1, 0.5, 2.0, 5.0):
            try:
                await self.services.client.delete(
                    kinds.POD, metadata["name"], metadata["namespace"], grace_seconds=0, uid=self.uid
                )
                return
            except ApiError as error:
                if error.code in (404, 409):
                    return
                log.warning("pod %s: cannot finish its deletion: %s", metadata["name"], error)
            except OSError as error:
                log.warning("pod %s: cannot finish its deletion: %s", metadata["name"], error)
            await asyncio.sleep(delay)

    async def _release(self) -> None:
        for runner in self.runners:
            if runner.container is not None:
                await runner.container.close()
        await self._leave_network()
        self.volumes.remove_memory()
        if self._terminating:
            self.volumes.remove()
            await asyncio.to_thread(shutil.rmtree, self.directory, True)
        if self.services.finished:
            self.services.finished(self)

    async def shut_down(self, grace: float) -> None:
        """The cluster stops: end the containers, keep the object; it continues when the cluster does."""
        end = time.monotonic() + min(grace, self._grace())
        await asyncio.gather(*(r.stop(lambda: end - time.monotonic()) for r in self.runners), return_exceptions=True)
        await _cancel(self.task)

    # Hot updates

    async def _follow_sources(self) -> None:
        written = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                # Tokens run out: written anew even when nothing else changes.
                async with asyncio.timeout(TOKEN_REFRESH):
                    await self._refresh.wait()
            self._refresh.clear()
            if not self.initialized and not self._tasks:
                self._refresh.set()  # `_prepare` is still waiting for it
                await asyncio.sleep(0.2)
                continue
            try:
                await self.volumes.update(self.pod)
                if time.monotonic() - written >= TOKEN_REFRESH:
                    await self.volumes.prepare_access(self.pod, self.services.authority)
                    written = time.monotonic()
            except (ConfigError, ApiError, OSError) as error:
                self.services.recorder.warning(self.pod, "FailedMount", f"cannot update volumes: {error}")

    # Status

    def _addresses(self) -> Object:
        node = self.services.addresses.node
        return {
            "hostIP": node,
            "hostIPs": [{"ip": node}],
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "startTime": self.start_time,
        }

    def status(self) -> Object:
        spec = self.pod["spec"]
        mains = [r.status() for r in self.mains]
        inits = [r.status() for r in self.inits]
        for entry, runner in zip(inits, self.inits, strict=True):
            if runner.spec.get("restartPolicy") != "Always":
                entry["ready"] = runner.exit_code == 0
        if not self.initialized:
            for entry in mains:
                if "waiting" in entry["state"] and inits:
                    entry["state"] = {"waiting": {"reason": "PodInitializing"}}
        policy = spec.get("restartPolicy")
        init_failed = policy == "Never" and any(
            r.exit_code for r in self.inits if r.spec.get("restartPolicy") != "Always"
        )
        where = status.phase(spec, self.initialized, mains, self.failure is not None or init_failed)
        created = bool(self._hosts_text)
        debuggers = self.ephemerals.status()
        found: Object = {
            "phase": where,
            "conditions": status.conditions(
                self.pod, initialized=self.initialized, created=created, containers=mains, phase=where
            ),
            "containerStatuses": mains,
            **({"initContainerStatuses": inits} if inits else {}),
            **({"ephemeralContainerStatuses": debuggers} if debuggers else {}),
            **self._addresses(),
            "qosClass": status.qos_class(spec),
        }
        if self.failure:
            found |= {"reason": self.failure[0], "message": self.failure[1]}
        return found

    async def _write_status(self) -> None:
        while True:
            await self._dirty.wait()
            await self._flush()

    async def _flush(self) -> None:
        """Write the status if it differs from what was written last."""
        self._dirty.clear()
        if self._closed:
            return  # the status of a pod that was over before us is history
        fresh = self.status()
        if fresh == self._written:
            return
        metadata = self.pod["metadata"]
        # A merge patch: conditions are ours and the readiness gates' owners', read from the pod's newest version.
        patch = {"metadata": {"uid": self.uid}, "status": _as_patch(self._written or {}, fresh)}
        try:
            answer = await self.services.client.patch(
                kinds.POD, metadata["name"], metadata["namespace"], patch, subresource="status"
            )
        except ApiError as error:
            if error.code not in (404, 409):
                log.warning("pod %s: status not written: %s", metadata["name"], error)
                await asyncio.sleep(0.5)
                self._dirty.set()
            return
        except OSError:
            await asyncio.sleep(0.5)
            self._dirty.set()
            return
        self._written = fresh
        if _version(answer) >= _version(self.pod):
            self.pod = answer
            if is_deleting(answer):
                self._changed.set()


def _version(pod: Object) -> int:
    return int(pod["metadata"].get("resourceVersion") or 0)


def _as_patch(old: Object, new: Object) -> Object:
    """A merge patch for a status: whole values; what vanished becomes null."""
    return {**{key: None for key in old if key not in new}, **new}


async def _cancel(*tasks: asyncio.Task[None] | None) -> None:
    present = [task for task in tasks if task is not None]
    for task in present:
        task.cancel()
    await asyncio.gather(*present, return_exceptions=True)
