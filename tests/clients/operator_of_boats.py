"""An operator over kopf: what `test_kopf.py` runs as a process of its own."""

from __future__ import annotations

from typing import Any

import kopf
import kubernetes

GROUP = "clients.example.com"


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = True
    settings.watching.server_timeout = 30
    settings.watching.reconnect_backoff = 0.2
    settings.persistence.finalizer = f"{GROUP}/kopf"
    kubernetes.config.load_kube_config()


@kopf.on.create(GROUP, "v1", "boats")
@kopf.on.resume(GROUP, "v1", "boats")
def launched(spec: kopf.Spec, name: str, namespace: str | None, patch: kopf.Patch, **_: Any) -> dict[str, Any]:
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"log-{name}"},
        "data": {"size": str(spec["size"])},
    }
    kopf.adopt(child)
    api = kubernetes.client.CoreV1Api()
    try:
        api.create_namespaced_config_map(namespace, child)
    except kubernetes.client.ApiException as error:
        if error.status != 409:
            raise
    patch.status["phase"] = "Launched"
    return {"size": spec["size"]}


@kopf.on.update(GROUP, "v1", "boats", field="spec.size")
def resized(old: Any, new: Any, body: kopf.Body, name: str, namespace: str | None, patch: kopf.Patch, **_: Any) -> None:
    kopf.info(body, reason="Resized", message=f"{old} to {new}")
    api = kubernetes.client.CoreV1Api()
    api.patch_namespaced_config_map(f"log-{name}", namespace, {"data": {"size": str(new)}})
    patch.status["resized"] = f"{old} to {new}"


@kopf.on.delete(GROUP, "v1", "boats")
def sunk(name: str, namespace: str | None, **_: Any) -> None:
    kubernetes.client.CoreV1Api().create_namespaced_config_map(namespace, {"metadata": {"name": f"sunk-{name}"}})


@kopf.timer(GROUP, "v1", "boats", interval=0.3)
def ticked(status: kopf.Status, patch: kopf.Patch, **_: Any) -> None:
    patch.status["ticks"] = int(status.get("ticks", 0)) + 1


@kopf.on.event("", "v1", "configmaps", labels={"cargo": "true"})
def loaded(event: Any, name: str, namespace: str | None, logger: Any, **_: Any) -> None:
    logger.info("seen %s %s/%s", event["type"], namespace, name)
