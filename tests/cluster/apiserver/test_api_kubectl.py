"""An unmodified kubectl against the server, oldest and newest we promise."""

from __future__ import annotations

import json
from typing import Any

import pytest

PROGRAMS = ["kubectl.1.27", "kubectl.1.33"]

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "nginx:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1"}
"""

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: crontabs, kind: CronTab, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Cron, type: string, jsonPath: .spec.cron}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {cron: {type: string}, replicas: {type: integer}}}
          status: {type: object, properties: {replicas: {type: integer}}}
"""

INSTANCE = "---\n{apiVersion: example.com/v1, kind: CronTab, metadata: {name: one}, spec: {cron: '* *', replicas: 1}}"


@pytest.mark.parametrize("kubectl", PROGRAMS, indirect=True)
async def test_apply_change_and_delete(kubectl: Any) -> None:
    assert "deployment.apps/web created" in await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert "deployment.apps/web unchanged" in await kubectl("apply", "-f", "-", stdin=MANIFEST)
    changed = MANIFEST.replace("nginx:1", "nginx:2")
    assert "deployment.apps/web configured" in await kubectl("apply", "-f", "-", stdin=changed)
    await kubectl("diff", "-f", "-", stdin=changed)
    assert "web serverside-applied" in await kubectl("apply", "--server-side", "-f", "-", stdin=changed)
    await kubectl("label", "deployment", "web", "tier=front")
    await kubectl("scale", "deployment", "web", "--replicas=4")
    await kubectl("set", "image", "deployment/web", "c=nginx:3")
    await kubectl("patch", "deployment", "web", "-p", '{"spec":{"paused":true}}')
    await kubectl("patch", "deployment", "web", "--type=json", "-p", '[{"op":"remove","path":"/spec/paused"}]')
    got = json.loads(await kubectl("get", "deployment", "web", "-o", "json"))
    assert got["spec"]["replicas"] == 4
    assert got["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:3"
    assert got["metadata"]["labels"] == {"app": "web", "tier": "front"}
    assert "NAME   READY" in await kubectl("get", "deployments", "-o", "wide")
    await kubectl("delete", "deployment/web", "configmap/settings")
    assert "not found" in await kubectl("get", "deployment", "web", fails=True)


@pytest.mark.parametrize("kubectl", PROGRAMS, indirect=True)
async def test_create_explain_and_ask(kubectl: Any) -> None:
    await kubectl("create", "configmap", "c", "--from-literal=k=v")
    await kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    await kubectl("create", "namespace", "n")
    await kubectl("create", "serviceaccount", "bob", "-n", "n")
    assert (await kubectl("create", "token", "bob", "-n", "n")).count(".") == 2
    await kubectl("create", "deployment", "web", "--image=nginx")
    await kubectl("autoscale", "deployment", "web", "--max=3", "--cpu-percent=50")
    assert "Deployment/web" in await kubectl("get", "hpa")
    assert "yes" in await kubectl("auth", "can-i", "create", "pods")
    assert "sampan-admin" in await kubectl("auth", "whoami")
    assert "no" in await kubectl("auth", "can-i", "create", "pods", "--as=ann", fails=True)
    assert "replicas <integer>" in await kubectl("explain", "deployment.spec.replicas")
    listed = await kubectl("api-resources")
    assert all(name in listed for name in ("deployments", "customresourcedefinitions", "poddisruptionbudgets"))
    await kubectl("delete", "configmap", "c", "--wait=true")


@pytest.mark.parametrize("kubectl", PROGRAMS, indirect=True)
async def test_custom_kinds(kubectl: Any) -> None:
    await kubectl("apply", "-f", "-", stdin=DEFINITION)
    await kubectl("wait", "--for=condition=established", "crd/crontabs.example.com", "--timeout=10s")
    await kubectl("apply", "-f", "-", stdin=INSTANCE)
    assert "CRON" in await kubectl("get", "ct")
    await kubectl("scale", "ct", "one", "--replicas=5")
    assert await kubectl("get", "ct", "one", "-o", "jsonpath={.spec.replicas}") == "5"
    assert "cron" in await kubectl("explain", "crontab.spec")
    await kubectl("delete", "crd", "crontabs.example.com")
    assert "NAME" not in await kubectl("get", "ct", fails=True)


@pytest.mark.parametrize("kubectl", PROGRAMS, indirect=True)
async def test_strict_validation_and_conflicts_are_told(kubectl: Any) -> None:
    bad = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: bad}, dat: {}}"
    assert 'unknown field "dat"' in await kubectl("create", "-f", "-", stdin=bad, fails=True)
    good = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: good}, data: {k: a}}"
    await kubectl("apply", "--server-side", "--field-manager=one", "-f", "-", stdin=good)
    other = good.replace("k: a", "k: b")
    told = await kubectl("apply", "--server-side", "--field-manager=two", "-f", "-", stdin=other, fails=True)
    assert 'conflict with "one"' in told
