"""Columns of pods and of everything that makes pods."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.printing.base import (
    AGE,
    NAME,
    NONE,
    Column,
    at,
    human_duration,
    labels_text,
    number,
    selector_text,
    since,
    text,
    wide,
)
from sampan.kube.objects import Object, controller_of, parse_time


def _condition(obj: Object, type: str) -> Object:
    for condition in at(obj, "status", "conditions") or ():
        if condition.get("type") == type:
            return dict(condition)
    return {}


def _true(obj: Object, type: str) -> bool:
    return _condition(obj, type).get("status") == "True"


def _ended(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


class _Restarts:
    """Restart count of some containers, and when the last of them ended."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def add(self, status: Object) -> None:
        self.count += status.get("restartCount") or 0
        self.last = max(self.last, at(status, "lastState", "terminated", "finishedAt") or "")

    def __str__(self) -> str:
        return f"{self.count} ({since(self.last)} ago)" if self.count and self.last else str(self.count)


def pod_summary(pod: Object) -> tuple[str, str, str]:
    """READY, STATUS and RESTARTS of a pod, from its container statuses as kubectl shows them."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    phase = status.get("phase") or ""
    reason = status.get("reason") or phase
    if _condition(pod, "PodScheduled").get("reason") == "SchedulingGated":
        reason = "SchedulingGated"
    init_containers = spec.get("initContainers") or []
    sidecars = {c.get("name") for c in init_containers if c.get("restartPolicy") == "Always"}
    total, ready = len(spec.get("containers") or ()) + len(sidecars), 0
    restarts, sidecar_restarts = _Restarts(), _Restarts()
    initializing = False
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        restarts.add(container)
        sidecar = container.get("name") in sidecars
        if sidecar:
            sidecar_restarts.add(container)
        terminated = at(container, "state", "terminated")
        waiting = at(container, "state", "waiting", "reason")
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if sidecar and container.get("started"):
            ready += bool(container.get("ready"))
            continue
        if terminated is not None:
            reason = f"Init:{_ended(terminated)}"
        elif waiting and waiting != "PodInitializing":
            reason = f"Init:{waiting}"
        else:
            reason = f"Init:{index}/{len(init_containers)}"
        initializing = True
        break
    if not initializing or _true(pod, "Initialized"):
        restarts, running = sidecar_restarts, False
        for container in reversed(status.get("containerStatuses") or ()):
            restarts.add(container)
            state = container.get("state") or {}
            if at(state, "waiting", "reason"):
                reason = state["waiting"]["reason"]
            elif state.get("terminated") is not None:
                reason = _ended(state["terminated"])
            elif container.get("ready") and state.get("running") is not None:
                running = True
                ready += 1
        if reason == "Completed" and running:
            reason = "Running" if _true(pod, "Ready") else "NotReady"
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            reason = "Terminating"
    return f"{ready}/{total}", reason, str(restarts)


def _readiness_gates(pod: Object) -> str:
    gates = at(pod, "spec", "readinessGates") or ()
    return f"{sum(_true(pod, gate['conditionType']) for gate in gates)}/{len(gates)}" if gates else NONE


def _pod_ip(pod: Object) -> str:
    ips = at(pod, "status", "podIPs") or ()
    return (ips[0].get("ip") if ips else at(pod, "status", "podIP")) or NONE


def containers(*path: str) -> tuple[Column, Column]:
    """The Containers and Images columns of a pod template whose pod spec is at `path`."""

    def names(field: str) -> Any:
        return lambda obj: ",".join(c.get(field) or "" for c in at(obj, *path, "containers") or ())

    return (
        wide("Containers", names("name"), description="Names of each container in the template."),
        wide("Images", names("image"), description="Images referenced by each container in the template."),
    )


_TEMPLATE = containers("spec", "template", "spec")
_SELECTOR = wide("Selector", lambda obj: selector_text(at(obj, "spec", "selector")))


def _job_status(job: Object) -> str:
    for type in ("Complete", "Failed"):
        if _true(job, type):
            return type
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for type in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if _true(job, type):
            return type
    return "Running"


def _job_completions(job: Object) -> str:
    succeeded, completions = at(job, "status", "succeeded") or 0, at(job, "spec", "completions")
    if completions is not None:
        return f"{succeeded}/{completions}"
    parallelism = at(job, "spec", "parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _job_duration(job: Object) -> str:
    started, completed = at(job, "status", "startTime"), at(job, "status", "completionTime")
    if not started:
        return ""
    return (
        human_duration((parse_time(completed) - parse_time(started)).total_seconds()) if completed else since(started)
    )


def _last_schedule(cron: Object) -> str:
    last = at(cron, "status", "lastScheduleTime")
    return since(last) if last else NONE


def _fraction(done: str, wanted: str) -> Any:
    return lambda obj: f"{at(obj, 'status', done) or 0}/{at(obj, 'spec', wanted) or 0}"


def _controller(revision: Object) -> str:
    owner = controller_of(revision)
    if owner is None:
        return NONE
    kind, group = owner["kind"].lower(), owner["apiVersion"].rpartition("/")[0]
    return f"{kind}.{group}/{owner['name']}" if group else f"{kind}/{owner['name']}"


_REPLICAS = (
    NAME,
    Column("Desired", number("spec", "replicas"), "integer"),
    Column("Current", number("status", "replicas"), "integer"),
    Column("Ready", number("status", "readyReplicas"), "integer"),
    AGE,
    *_TEMPLATE,
)

COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "Pod"): (
        NAME,
        Column("Ready", lambda pod: pod_summary(pod)[0], description="Containers that are ready, of all."),
        Column("Status", lambda pod: pod_summary(pod)[1], description="The aggregate status of the containers."),
        Column("Restarts", lambda pod: pod_summary(pod)[2], description="How often containers have been restarted."),
        AGE,
        wide("IP", _pod_ip),
        wide("Node", text("spec", "nodeName", default=NONE)),
        wide("Nominated Node", text("status", "nominatedNodeName", default=NONE)),
        wide("Readiness Gates", _readiness_gates),
    ),
    ("", "PodTemplate"): (
        NAME,
        *(Column(c.name, c.value, description=c.description) for c in containers("template", "spec")),
        Column("Pod Labels", lambda obj: labels_text(at(obj, "template", "metadata", "labels"))),
    ),
    ("", "ReplicationController"): (
        *_REPLICAS,
        wide("Selector", lambda obj: labels_text(at(obj, "spec", "selector"))),
    ),
    ("apps", "ReplicaSet"): (*_REPLICAS, _SELECTOR),
    ("apps", "Deployment"): (
        NAME,
        Column("Ready", _fraction("readyReplicas", "replicas"), description="Pods that are ready, of all."),
        Column("Up-to-date", number("status", "updatedReplicas")),
        Column("Available", number("status", "availableReplicas")),
        AGE,
        *_TEMPLATE,
        _SELECTOR,
    ),
    ("apps", "StatefulSet"): (
        NAME,
        Column("Ready", _fraction("readyReplicas", "replicas"), description="Pods that are ready, of all."),
        AGE,
        *_TEMPLATE,
    ),
    ("apps", "DaemonSet"): (
        NAME,
        Column("Desired", number("status", "desiredNumberScheduled"), "integer"),
        Column("Current", number("status", "currentNumberScheduled"), "integer"),
        Column("Ready", number("status", "numberReady"), "integer"),
        Column("Up-to-date", number("status", "updatedNumberScheduled"), "integer"),
        Column("Available", number("status", "numberAvailable"), "integer"),
        Column("Node Selector", lambda obj: labels_text(at(obj, "spec", "template", "spec", "nodeSelector"))),
        AGE,
        *_TEMPLATE,
        _SELECTOR,
    ),
    ("apps", "ControllerRevision"): (
        NAME,
        Column("Controller", _controller),
        Column("Revision", number("revision")),
        AGE,
    ),
    ("batch", "Job"): (
        NAME,
        Column("Status", _job_status),
        Column("Completions", _job_completions),
        Column("Duration", _job_duration, description="Time required to complete the job."),
        AGE,
        *_TEMPLATE,
        _SELECTOR,
    ),
    ("batch", "CronJob"): (
        NAME,
        Column("Schedule", text("spec", "schedule")),
        Column("Timezone", text("spec", "timeZone", default=NONE)),
        Column("Suspend", lambda obj: "True" if at(obj, "spec", "suspend") else "False", "boolean"),
        Column("Active", lambda obj: len(at(obj, "status", "active") or ()), "integer"),
        Column("Last Schedule", _last_schedule),
        AGE,
        *containers("spec", "jobTemplate", "spec", "template", "spec"),
        wide("Selector", lambda obj: selector_text(at(obj, "spec", "jobTemplate", "spec", "selector"))),
    ),
}
