"""Junk anywhere in a manifest never trips a default, and never trips validation once the schema has let it through."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from sampan.cluster.apiserver.registry import strategy_for
from sampan.kube import kinds, schema

JUNK: list[Any] = [None, 1, -1, "x", "", [], {}, [1], ["a"], {"a": 1}, True, 1.5, [None], [{}]]
POD: dict[str, Any] = {
    "initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always"}],
    "containers": [
        {
            "name": "a",
            "image": "a:1",
            "ports": [{"name": "http", "containerPort": 80}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
            "livenessProbe": {"httpGet": {"port": 80}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }
    ],
    "volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}}],
    "tolerations": [{"key": "a", "operator": "Exists"}],
}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": POD}
BACKEND = {"service": {"name": "a", "port": {"name": "x"}}}
TARGET = {"type": "Utilization", "averageUtilization": 5}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "Pod"): POD,
    ("apps/v1", "Deployment"): {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE},
    ("apps/v1", "StatefulSet"): {
        "selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
        "template": TEMPLATE,
    },
    ("batch/v1", "CronJob"): {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": TEMPLATE}}},
    ("v1", "Service"): {
        "ports": [{"name": "a", "port": 1, "targetPort": "a"}],
        "selector": {"a": "b"},
        "externalIPs": ["1.2.3.4"],
    },
    ("networking.k8s.io/v1", "Ingress"): {
        "tls": [{"hosts": ["a.b"]}],
        "rules": [{"host": "*.a", "http": {"paths": [{"path": "/", "pathType": "Exact", "backend": BACKEND}]}}],
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "podSelector": {},
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
    },
    ("autoscaling/v2", "HorizontalPodAutoscaler"): {
        "scaleTargetRef": {"kind": "A", "name": "b"},
        "maxReplicas": 3,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": TARGET}}],
        "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}]}},
    },
}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(item, (*path, key))


@pytest.mark.parametrize(("api_version", "kind"), BODIES)
def test_junk(api_version: str, kind: str) -> None:
    resource, node = kinds.find(api_version, kind), schema.for_kind(api_version, kind)
    assert resource is not None
    assert node is not None
    strategy, chance = strategy_for(resource), random.Random(7)
    places = list(paths(BODIES[api_version, kind]))
    judged = 0
    for _ in range(400):
        obj: Any = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": "a", "namespace": "b"},
            "spec": deepcopy(BODIES[api_version, kind]),
        }
        *parents, last = chance.choice(places)
        holder = obj["spec"]
        for step in parents:
            holder = holder[step]
        holder[last] = deepcopy(chance.choice(JUNK))
        strategy.default(obj)
        if not schema.validate(node, obj):
            strategy.validate_create(obj)
            judged += 1
    assert judged > 10
