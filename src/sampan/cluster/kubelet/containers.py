"""One container of a pod through all its starts: image, environment, process, probes, back-off, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sampan.cluster.kubelet import environment, plain, probes
from sampan.cluster.kubelet.cgroups import Group
from sampan.cluster.kubelet.identity import identity
from sampan.cluster.kubelet.images import Image, ImageError, default_path
from sampan.cluster.kubelet.mounts import Mount
from sampan.cluster.kubelet.node import Services
from sampan.cluster.kubelet.source import ConfigError
from sampan.cluster.kubelet.supervisor import ContainerSpec
from sampan.cluster.kubelet.volumes import Volumes
from sampan.cluster.kubelet.zygote import Container
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, now

TMP = "/tmp"  # noqa: S108 - the path in the container
BACKOFF_FIRST, BACKOFF_MAX = 10.0, 300.0
BACKOFF_RESET = 600.0
UNKNOWN_EXIT = {"exitCode": 137, "reason": "ContainerStatusUnknown"}


class ContainerRunner:
    """Owns the status entry of its container. `changed` is called whenever that may differ."""

    def __init__(
        self, services: Services, pod: Callable[[], Object], spec: Object, *, volumes: Volumes, directory: Path, ip: str
    ) -> None:
        self.services = services
        self.pod = pod
        self.spec = spec
        self.name: str = spec["name"]
        self.volumes = volumes
        self.directory = directory / self.name
        self.ip = ip
        # Pods with a network of their own have it from their worker before the first container starts.
        host_network = bool(pod()["spec"].get("hostNetwork"))
        self.network = None if host_network else services.network
        self.namespace: Callable[[], int] = lambda: -1
        self.shares_network = self.network is None and not host_network
        self.changed: Callable[[], None] = lambda: None
        self.container: Container | None = None
        self.image: Image | None = None
        self.restarts = 0
        self.ready = False
        self.started = False
        self.stopping = False
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Object = {}
        self.container_id = ""
        self.oom_killed = False
        self.group: Group | None = None
        self.first_ready = asyncio.Event()
        self._probes: list[asyncio.Task[None]] = []
        self._unhealthy = ""
        self._waiting_since = time.monotonic()

    def restore(self, status: Object) -> bool:
        """Take over from the status a former cluster process left. True if the container had run."""
        self.restarts = int(status.get("restartCount") or 0)
        state, self.last_state = status.get("state") or {}, status.get("lastState") or {}
        if "terminated" in state:
            self.last_state = {"terminated": state["terminated"]}
        elif "running" in state:
            stopped = {"startedAt": state["running"].get("startedAt"), "finishedAt": now()}
            message = "The cluster stopped while the container was running"
            self.last_state = {"terminated": {**UNKNOWN_EXIT, **stopped, "message": message}}
        if self.last_state:
            self.restarts += 1
        return bool(self.last_state)

    def show(self, status: Object) -> None:
        """Be the container of a pod that is over: nothing runs again, its log can be read."""
        self.restarts = int(status.get("restartCount") or 0)
        self.state, self.last_state = status.get("state") or {}, status.get("lastState") or {}
        self.stopping = True

    def status(self) -> Object:
        """Its element of containerStatuses."""
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": self.image.identity if self.image else "",
            **({"containerID": self.container_id} if self.container_id else {}),
            "restartCount": self.restarts,
            "ready": self.ready,
            "started": self.started,
            "state": self.state,
            "lastState": self.last_state,
        }

    @property
    def exit_code(self) -> int | None:
        """Of the last run, once it is over for good or until it is started again."""
        ended = self.state.get("terminated")
        return ended["exitCode"] if ended else None

    @property
    def running(self) -> bool:
        return "running" in self.state

    def _set(self, **changes: object) -> None:
        for key, value in changes.items():
            setattr(self, key, value)
        self.changed()

    def _wait(self, reason: str, message: str = "") -> None:
        waiting = {"reason": reason, **({"message": message} if message else {})}
        if self.state != {"waiting": waiting}:
            if "terminated" in self.state:
                self.last_state = self.state
            self._set(state={"waiting": waiting}, ready=False, started=False)

    async def run(self, restart: Callable[[int], bool]) -> None:
        """Start it, and again for as long as `restart(exit code)` says so."""
        try:
            await self._run(restart)
        finally:
            self._leave_group(0)  # of a start that was called off

    async def _run(self, restart: Callable[[int], bool]) -> None:
        delay = 0.0
        while not self.stopping:
            began = time.monotonic()
            code = await self._once()
            if self.stopping or not restart(code):
                return
            delay = 0.0 if time.monotonic() - began > BACKOFF_RESET else delay
            if delay:
                name = f"{self.name} pod={self.pod()['metadata']['name']}"
                message = f"back-off {_duration(delay)} restarting failed container={name}"
                self._wait("CrashLoopBackOff", message)
                self.services.recorder.warning(self.pod(), "BackOff", f"Back-off restarting failed container {name}")
                await asyncio.sleep(delay)
            delay = min(delay * 2, BACKOFF_MAX) if delay else BACKOFF_FIRST
            if self.stopping:
                return
            if "terminated" in self.state:
                self.last_state = self.state
            self.restarts += 1

    async def _once(self) -> int:
        """One start, from image to exit."""
        container = await self._create()
        self.oom_killed = False
        started = now()
        self.container_id = f"sampan://{secrets.token_hex(16)}"
        self._set(state={"running": {"startedAt": started}}, started=not self.spec.get("startupProbe"))
        self.services.recorder.normal(self.pod(), "Started", f"Started container {self.name}")
        if not await self._post_start(container):
            await container.kill(signal.SIGKILL)
        else:
            self._begin_probes(container)
        if self.started:
            self.first_ready.set()
        code = await container.wait()
        await self._end_probes()
        self._leave_group(code)
        self.container = None
        reason = "OOMKilled" if self.oom_killed else "Completed" if code == 0 else "Error"
        ended: Object = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        if container.signal:
            ended["signal"] = container.signal
        if self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError" and code:
            ended["message"] = tail(self.directory / f"{self.restarts}.log")
        ended["containerID"] = self.container_id
        self._set(state={"terminated": ended}, ready=False, started=False)
        return code

    async def _create(self) -> Container:
        """Start the process; tries again, with back-off, for as long as something is missing."""
        delay = 0.0
        while True:
            try:
                image = self.services.images.resolve(self.spec["image"])
                if self.image is None or delay:
                    message = f'Container image "{self.spec["image"]}" already present on machine'
                    self.services.recorder.normal(self.pod(), "Pulled", message)
                self.image = image
                container = await self._spawn(image)
                self.services.recorder.normal(self.pod(), "Created", f"Created container: {self.name}")
                return container
            except ImageError as error:
                # Shown in full both times: the message says what to do.
                self._wait("ImagePullBackOff" if delay else "ErrImagePull", str(error))
                self.services.recorder.warning(self.pod(), "Failed", f"Failed to pull image: {error}")
                delay = min(delay * 2, BACKOFF_MAX) if delay else 1.0
            except (ConfigError, ApiError) as error:
                self._wait("CreateContainerConfigError", str(error))
                self.services.recorder.warning(self.pod(), "Failed", f"Error: {error}")
                delay = min((delay or 0.5) * 2, 10.0)
            except OSError as error:
                self._wait("RunContainerError", str(error))
                self.services.recorder.warning(self.pod(), "Failed", f"Error: failed to start container: {error}")
                delay = min(delay * 2, BACKOFF_MAX) if delay else BACKOFF_FIRST
            await asyncio.sleep(delay)

    async def _spawn(self, image: Image) -> Container:
        pod = self.pod()
        values = await environment.build(pod, self.spec, self.services.source, self._base(pod, image))
        command = [environment.expand(word, values) for word in self.spec.get("command") or ()]
        args = [environment.expand(word, values) for word in self.spec.get("args") or ()]
        argv = image.argv(command, args, self.ip if self.network is None else "0.0.0.0")  # noqa: S104
        if not argv:
            raise OSError(f'image "{image.image}" has no entrypoint and the container no command')
        mounts = self.volumes.mounts(self.spec, values)
        mounts += self._anonymous(image, {mount.target for mount in mounts})
        cwd = self.spec.get("workingDir") or image.directory or "/"
        if not self.services.capabilities.namespaces and not any(mount.target == TMP for mount in mounts):
            mounts.append(Mount(str(self._scratch("tmp")), TMP))
            mounts += _uncovered(image, mounts, cwd)
        else:
            mounts += _uncovered(image, mounts)
        scratch = self.directory / "root"
        scratch.mkdir(parents=True, exist_ok=True)
        isolated = not self.services.capabilities.namespaces
        if isolated:
            mounts += plain.own_files(self.directory.parent, resolver=self.network is not None)
            mounts += self.volumes.shared_memory(pod, {mount.target for mount in mounts})
        else:
            move = plain.Moved(mounts, scratch)
            values = move.environment(values, plain.hosts_file(self.directory.parent))
            argv, cwd = [move.path(word) for word in argv], move.path(cwd)
        spec = ContainerSpec(
            argv=argv,
            env=values,
            cwd=cwd,
            hostname=pod["spec"].get("hostname") or pod["metadata"]["name"],
            log_directory=str(self.directory),
            scratch=str(scratch),
            start=self.restarts,
            mounts=mounts,
            warm=image.python,
            patient=image.python and not image.known,
            bind_address="" if self.services.capabilities.bind or not self.shares_network else self.ip,
            stdin=bool(self.spec.get("stdin")),
            stdin_once=bool(self.spec.get("stdinOnce")),
            tty=bool(self.spec.get("tty")),
            namespaces=isolated,
            identity=identity(pod, self.spec, image, namespaces=isolated),
            groups=self._enter_group(pod),
        )
        self._prune_logs()
        container = await self.services.zygote.spawn(spec, self._namespaces())
        self.container = container
        await container.started()
        return container

    def _anonymous(self, image: Image, taken: set[str]) -> list[Mount]:
        """Directories for the image's own volumes; they last as long as the pod."""
        mounts = []
        for target in image.volumes:
            if target not in taken:
                source = self._scratch(f"volumes/{target.strip('/').replace('/', '~')}")
                mounts.append(Mount(str(source), target))
        return mounts

    def _scratch(self, name: str) -> Path:
        """A directory that anybody in the container may write."""
        path: Path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o1777)
        return path

    def _base(self, pod: Object, image: Image) -> dict[str, str]:
        host, _, port = self.services.api_address.rpartition(":")
        if self.network is not None:
            host = self.network.router
        return {
            "PATH": default_path(),
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "KUBERNETES_SERVICE_PORT_HTTPS": port,
            **({"SAMPAN_POD_IP": self.ip} if self.network is None else {}),
            **image.env,
        }

    def _prune_logs(self) -> None:
        """Keep the logs of the last two starts."""
        for path in self.directory.glob("*.log*"):
            start = path.name.partition(".")[0]
            if start.isdigit() and int(start) < self.restarts - 1:
                path.unlink(missing_ok=True)

    # Probes and handlers

    def _ports(self) -> dict[str, int]:
        return {p["name"]: p["containerPort"] for p in self.spec.get("ports") or () if p.get("name")}

    def _enter_group(self, pod: Object) -> list[str]:
        """A control group with the container's limits; what its processes write to."""
        if self.services.groups is None:
            return []
        name = f"{pod['metadata']['uid']}-{self.name}-{self.restarts}"
        self.group = self.services.groups.create(name, self.spec.get("resources") or {})
        return self.group.entries

    def _leave_group(self, code: int) -> None:
        if self.group is not None:
            # As containerd has it: whatever the program made of it, somebody in there was killed for its memory.
            self.oom_killed = bool(code) and self.group.oom_kills() > 0
            self.group.dismiss()
            self.group = None

    def _namespaces(self) -> list[int]:
        if self.network is None:
            return []
        owner = self.network.user_namespace
        return [self.namespace(), *([owner] if owner >= 0 else [])]

    def _attempt(self, spec: Object, container: Container) -> Coroutine[Any, Any, str]:
        connect = asyncio.open_connection if self.network is None else self.network.connect
        return probes.attempt(spec, container, self._ports(), self.ip, connect)

    async def _post_start(self, container: Container) -> bool:
        handler = (self.spec.get("lifecycle") or {}).get("postStart")
        if not handler:
            return True
        message = await self._attempt({"timeoutSeconds": 300, **handler}, container)
        if message:
            self.services.recorder.warning(self.pod(), "FailedPostStartHook", f"PostStartHook failed: {message}")
        return not message

    def _begin_probes(self, container: Container) -> None:
        self._probes = [asyncio.create_task(self._probe(container))]

    async def _end_probes(self) -> None:
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        self._probes = []

    async def _probe(self, container: Container) -> None:
        passed = asyncio.Event()

        def startup_result(healthy: bool, message: str) -> None:
            if healthy:
                passed.set()
            else:
                self._fail_liveness(container, "Startup", message)

        def readiness_result(healthy: bool, message: str) -> None:
            if healthy != self.ready and not self.stopping:
                self._set(ready=healthy)

        def liveness_result(healthy: bool, message: str) -> None:
            if not healthy:
                self._fail_liveness(container, "Liveness", message)

        async with asyncio.TaskGroup() as group:
            if startup := self.spec.get("startupProbe"):
                task = group.create_task(self._watch(container, startup, "Startup", startup_result, eager=True))
                await passed.wait()
                task.cancel()
                self._set(started=True)
                self.first_ready.set()
            if readiness := self.spec.get("readinessProbe"):
                group.create_task(self._watch(container, readiness, "Readiness", readiness_result, eager=True))
            elif not self.stopping:
                self._set(ready=True)
            if liveness := self.spec.get("livenessProbe"):
                group.create_task(self._watch(container, liveness, "Liveness", liveness_result, eager=False))

    async def _watch(
        self, container: Container, spec: Object, kind: str, report: Callable[[bool, str], None], *, eager: bool
    ) -> None:
        began = time.monotonic()

        async def check() -> str:
            message = await self._attempt(spec, container)
            # A refused connection in the first second is a program starting up, not news.
            if message and time.monotonic() - began > 1 and not self.stopping:
                self.services.recorder.warning(self.pod(), "Unhealthy", f"{kind} probe failed: {message}")
            return message

        await probes.watch(spec, check, report, eager=eager)

    def _fail_liveness(self, container: Container, kind: str, message: str) -> None:
        if self._unhealthy == self.container_id or self.stopping:
            return
        self._unhealthy = self.container_id
        text = f"Container {self.name} failed {kind.lower()} probe, will be restarted"
        self.services.recorder.normal(self.pod(), "Killing", text)
        grace = float(self.pod()["spec"].get("terminationGracePeriodSeconds") or 30)
        self._probes.append(asyncio.create_task(self._restart(container, grace)))

    async def _restart(self, container: Container, grace: float) -> None:
        await container.kill(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await container.wait()
            return
        await container.kill(signal.SIGKILL)

    # Stopping

    async def stop(self, remaining: Callable[[], float], event: str = "Stopping container {}") -> None:
        """preStop, SIGTERM, and SIGKILL when `remaining()` seconds of grace are used up."""
        self.stopping = True
        container = self.container
        if container is None or not container.running:
            return
        self.services.recorder.normal(self.pod(), "Killing", event.format(self.name))
        waited = asyncio.create_task(container.wait())
        try:
            await self._pre_stop(container, remaining)
            number = (self.spec.get("lifecycle") or {}).get("stopSignal") or "SIGTERM"
            await container.kill(getattr(signal, number, signal.SIGTERM))
            while not waited.done() and (left := remaining()) > 0:
                # In short waits: a second delete may shorten the grace period.
                await asyncio.wait([waited], timeout=min(left, 0.5))
        finally:
            if not waited.done():
                await container.kill(signal.SIGKILL)
            await waited

    async def _pre_stop(self, container: Container, remaining: Callable[[], float]) -> None:
        handler = (self.spec.get("lifecycle") or {}).get("preStop")
        if not handler or remaining() <= 0:
            return
        spec = {**handler, "timeoutSeconds": remaining()}
        hook = asyncio.create_task(self._attempt(spec, container))
        waited = asyncio.create_task(container.wait())
        await asyncio.wait([hook, waited], return_when=asyncio.FIRST_COMPLETED)
        hook.cancel()
        waited.cancel()
        if hook.done() and not hook.cancelled() and hook.result():
            self.services.recorder.warning(self.pod(), "FailedPreStopHook", f"PreStopHook failed: {hook.result()}")


def _uncovered(image: Image, mounts: list[Mount], *more: str) -> list[Mount]:
    """The image's own files, and `more` paths, where a volume would cover them: a project below /tmp, say."""
    # sys.path: entry programs and warm parents import this package from wherever it is installed
    own = {*more, image.directory, *image.env.get("PYTHONPATH", "").split(":"), sys.prefix, sys.base_prefix, *sys.path}
    own -= {"", "/"}
    covering = [mount.target for mount in mounts if not mount.readonly]
    hidden = {path for path in own if any(path.startswith(target + "/") for target in covering)}
    return [Mount(path, path) for path in sorted(hidden) if Path(path).is_dir()]


def tail(path: Path, lines: int = 80, limit: int = 2048) -> str:
    """The end of a log file, as a termination message."""
    with contextlib.suppress(OSError):
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4 * limit))
            texts = [line.split(b" ", 3)[-1] for line in file.read().splitlines()[-lines:]]
        return b"\n".join(texts)[-limit:].decode(errors="replace")
    return ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return (f"{minutes}m" if minutes else "") + f"{rest}s"
