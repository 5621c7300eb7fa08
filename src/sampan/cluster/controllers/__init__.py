"""The controllers of the embedded cluster: ordinary operators over an in-process transport, one file per kind of work.

manager = controllers.manager(Client(api_server.transport()), usage=runtime.usage, volumes=directory / "volumes",
ca=pem) await manager.start()
...
await manager.stop()
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sampan.cluster.controllers.accounts import ROOT_CA, NamespaceDefaults
from sampan.cluster.controllers.aggregation import RoleAggregation
from sampan.cluster.controllers.autoscaler import AutoscalerController
from sampan.cluster.controllers.budget import DisruptionController
from sampan.cluster.controllers.cronjob import CronJobController
from sampan.cluster.controllers.daemonset import DaemonSetController
from sampan.cluster.controllers.deployment import DeploymentController
from sampan.cluster.controllers.endpoints import EndpointController
from sampan.cluster.controllers.everything import Everything
from sampan.cluster.controllers.gc import GarbageCollector
from sampan.cluster.controllers.job import JobController
from sampan.cluster.controllers.namespace import NamespaceController
from sampan.cluster.controllers.nodes import NodeTaints
from sampan.cluster.controllers.podgc import PodCleaner
from sampan.cluster.controllers.protection import VolumeProtection
from sampan.cluster.controllers.replicaset import ReplicaSetController, ReplicationControllerController
from sampan.cluster.controllers.resourcequota import ResourceQuotaController
from sampan.cluster.controllers.scaling import Measured
from sampan.cluster.controllers.scheduler import Scheduler
from sampan.cluster.controllers.statefulset import StatefulSetController
from sampan.cluster.controllers.volumes import VolumeBinder, VolumePhase
from sampan.kube.client import Client
from sampan.kube.objects import Object
from sampan.operator import Controller, Manager

__all__ = ["all_controllers", "manager"]


def all_controllers(
    *,
    usage: Callable[[], Measured],
    volumes: Path | Callable[[str, str, str], Path],
    ca: str = "",
    autoscaler_seconds: float = 5.0,
    job_backoff_seconds: float = 10.0,
) -> list[Controller]:
    """Every controller. `usage` is `NodeRuntime.usage`; `volumes` the directory in which volumes are made, or a
    function of (namespace, claim, uid) giving one; `ca` the certificate authority in PEM for `kube-root-ca.crt`."""
    everything = Everything()
    where = volumes if callable(volumes) else _under(volumes)
    return [
        EndpointController(),
        Scheduler(),
        ReplicaSetController(),
        ReplicationControllerController(),
        DeploymentController(),
        StatefulSetController(),
        DaemonSetController(),
        JobController(backoff=job_backoff_seconds),
        CronJobController(),
        NamespaceDefaults(ca),
        NamespaceController(everything),
        GarbageCollector(everything),
        AutoscalerController(everything, usage, period=autoscaler_seconds),
        DisruptionController(),
        ResourceQuotaController(everything),
        VolumeBinder(where),
        VolumePhase(),
        VolumeProtection(),
        PodCleaner(),
        NodeTaints(),
        RoleAggregation(),
    ]


def trimmed(obj: Object) -> Object:
    """An object without what no controller reads, which is most of what it takes in memory: managedFields, and what is
    in a ConfigMap, but for the certificates that every namespace is given."""
    metadata = obj["metadata"]
    kept = {**obj, "metadata": {name: value for name, value in metadata.items() if name != "managedFields"}}
    if obj.get("kind") == "ConfigMap" and metadata["name"] != ROOT_CA:
        kept.pop("data", None)
        kept.pop("binaryData", None)
    return kept


def manager(
    client: Client,
    *,
    usage: Callable[[], Measured],
    volumes: Path | Callable[[str, str, str], Path],
    ca: str = "",
    autoscaler_seconds: float = 5.0,
    job_backoff_seconds: float = 10.0,
) -> Manager:
    """All controllers over one shared cache, not started yet. `manager.cache` may be shared with the kubelet and
    proxy."""
    made = Manager(client, trimmed)
    for controller in all_controllers(
        usage=usage,
        volumes=volumes,
        ca=ca,
        autoscaler_seconds=autoscaler_seconds,
        job_backoff_seconds=job_backoff_seconds,
    ):
        made.add(controller)
    return made


def _under(directory: Path) -> Callable[[str, str, str], Path]:
    return lambda namespace, claim, uid: directory / f"{namespace}_{claim}_{uid}"
