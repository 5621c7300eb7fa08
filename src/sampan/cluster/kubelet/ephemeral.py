"""Ephemeral containers (`kubectl debug`): started in a pod that is running, never restarted, gone with the pod.

They share the pod's address and may mount its volumes. They do not join the processes of `targetContainerName`: each
container is a process of this machine in a process namespace of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from sampan.cluster.kubelet.containers import UNKNOWN_EXIT, ContainerRunner
from sampan.kube.objects import Object, now


class Ephemerals:
    """The ephemeral containers of one pod. `make` gives the runner of a container's spec, `start` sets it going."""

    def __init__(self, make: Callable[[Object], ContainerRunner], start: Callable[[ContainerRunner], None]) -> None:
        self._make = make
        self._start = start
        self._started: set[str] = set()
        self.runners: list[ContainerRunner] = []

    def follow(self, pod: Object, *, ready: bool) -> None:
        """Take in what the pod lists now; what is new starts once the pod is `ready` for containers."""
        known = {runner.name for runner in self.runners}
        before = {one["name"]: one for one in (pod.get("status") or {}).get("ephemeralContainerStatuses") or ()}
        for spec in pod["spec"].get("ephemeralContainers") or ():
            if spec["name"] not in known:
                runner = self._make(spec)
                self.runners.append(runner)
                if spec["name"] in before:
                    _take_over(runner, before[spec["name"]])
        for runner in self.runners if ready else ():
            if runner.name not in self._started and not runner.stopping:
                self._started.add(runner.name)
                runner.directory.mkdir(parents=True, exist_ok=True)
                self._start(runner)

    def status(self) -> list[Object]:
        """`ephemeralContainerStatuses`: they are never ready."""
        found = []
        for runner in self.runners:
            entry = {**runner.status(), "ready": False}
            entry.pop("started", None)
            found.append(entry)
        return found


def _take_over(runner: ContainerRunner, status: Object) -> None:
    """One that a former cluster process had started: it is not started again."""
    state = status.get("state") or {}
    if "terminated" not in state:
        began = (state.get("running") or {}).get("startedAt")
        ended = {**UNKNOWN_EXIT, "finishedAt": now(), "message": "The cluster stopped while the container was running"}
        state = {"terminated": {**ended, **({"startedAt": began} if began else {})}}
    runner.show({**status, "state": state})
    runner.container_id = status.get("containerID") or ""
