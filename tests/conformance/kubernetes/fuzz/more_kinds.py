"""More kinds of the fuzzer: cluster-scoped ones, several versions of one kind, kinds in a namespace apart."""

from __future__ import annotations

import random
from typing import Any

Object = dict[str, Any]


def _some(rng: random.Random, fields: Object, chance: float = 0.35) -> Object:
    """Some of `fields`; a list-valued field that is a `tuple` is one of its values."""
    return {
        key: rng.choice(value) if isinstance(value, tuple) else value
        for key, value in fields.items()
        if rng.random() < chance
    }


def endpoints(rng: random.Random) -> Object:
    address = {"ip": rng.choice(["10.1.2.3", "10.1.2.4", "bad"])}
    port = {"port": rng.choice([80, 443, 0]), **_some(rng, {"name": "http", "protocol": ("TCP", "UDP", "X")})}
    subset = {"addresses": [address], "ports": [port]}
    return rng.choice([{}, {"subsets": [subset]}, {"subsets": [subset, subset]}, {"subsets": []}])


def endpoint_slice(rng: random.Random) -> Object:
    endpoint = {
        "addresses": [rng.choice(["10.1.2.3", "10.1.2.4", "x"])],
        **_some(rng, {"conditions": {"ready": True}, "nodeName": ("n", "Bad"), "hostname": "h", "zone": "z"}),
    }
    return {
        "addressType": rng.choice(["IPv4", "IPv4", "IPv4", "FQDN", "Other"]),
        "endpoints": rng.choice([[endpoint], [endpoint], []]),
        **_some(rng, {"ports": ([{"port": 80}], [{"name": "a", "port": 80}, {"name": "a", "port": 81}], [])}),
    }


def core_event(rng: random.Random) -> Object:
    return {
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": rng.choice(["fuzz", "fuzz", "other"])},
        **_some(
            rng,
            {
                "reason": ("Started", ""),
                "message": "hello",
                "type": ("Normal", "Warning", "Odd"),
                "count": (1, 2),
                "source": {"component": "c"},
                "firstTimestamp": ("2026-01-01T00:00:00Z", None),
                "eventTime": (None, "2026-01-01T00:00:00.000001Z"),
                "reportingComponent": ("x.io/c", "c c"),
                "reportingInstance": "i",
                "action": "Do",
            },
        ),
    }


def event(rng: random.Random) -> Object:
    more = {
        "note": ("hello", "hi"),
        "series": ({"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000001Z"}, {"count": 1}),
        "deprecatedCount": (0, 1),
        "deprecatedSource": ({}, {"component": "c"}),
        "deprecatedFirstTimestamp": (None, "2026-01-01T00:00:00Z"),
        "related": {"kind": "Pod", "name": "b"},
    }
    return {
        "regarding": {"kind": "Pod", "name": "a", "namespace": rng.choice(["fuzz", "fuzz", "other"])},
        "eventTime": rng.choice(["2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000002Z", None]),
        "reportingController": rng.choice(["x.io/c", "x.io/c", "c c"]),
        "reportingInstance": "i",
        "action": rng.choice(["Do", "Do", ""]),
        "reason": rng.choice(["Started", "Started", ""]),
        "type": rng.choice(["Normal", "Normal", "Warning", "Odd"]),
        **_some(rng, more, 0.2),
    }


def resource_quota(rng: random.Random) -> Object:
    spec = _some(
        rng,
        {
            "hard": ({"pods": "3"}, {"requests.cpu": "1500m", "count/x.y": 2}, {"cpu": "-1"}, {"odd": "1"}, {}),
            "scopes": (["BestEffort"], ["Terminating", "NotTerminating"], ["Odd"]),
        },
        0.6,
    )
    return {"spec": spec}


def limit_range(rng: random.Random) -> Object:
    item = {
        "type": rng.choice(["Container", "Container", "Pod", "PersistentVolumeClaim", "Odd"]),
        **_some(
            rng,
            {
                "max": ({"cpu": "2"}, {"storage": "5Gi"}),
                "min": ({"cpu": "1"}, {"cpu": "3"}, {"storage": "1Gi"}),
                "default": {"cpu": ("1", "1500m")[0]},
                "defaultRequest": {"memory": "64Mi"},
                "maxLimitRequestRatio": ({"cpu": "2"}, {"cpu": "0.5"}),
            },
        ),
    }
    return {"spec": {"limits": rng.choice([[item], [item], [item, item], []])}}


def autoscaler_v1(rng: random.Random) -> Object:
    return {
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": rng.choice("ab"), **_some(rng, {"apiVersion": "apps/v1"})},
            "maxReplicas": rng.choice([1, 3, 0]),
            **_some(rng, {"minReplicas": (1, 2, 0), "targetCPUUtilizationPercentage": (50, 80, 0)}),
        }
    }


def cluster_role(rng: random.Random) -> Object:
    rule = rng.choice(
        [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            {"nonResourceURLs": ["/healthz"], "verbs": ["get"]},
            {"apiGroups": [""], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods"], "nonResourceURLs": ["/x"], "verbs": []},
        ]
    )
    more = _some(rng, {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"agg": "x"}}]}}, 0.15)
    return {"rules": rng.choice([[rule], [rule, rule], []]), **more}


def cluster_role_binding(rng: random.Random) -> Object:
    return {
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": rng.choice(["ClusterRole", "ClusterRole", "Role"]),
            "name": rng.choice("ab"),
        },
        **_some(
            rng,
            {
                "subjects": (
                    [{"kind": "User", "name": "u"}],
                    [{"kind": "Group", "name": "g", "apiGroup": "rbac.authorization.k8s.io"}],
                    [{"kind": "ServiceAccount", "name": "s"}],
                )
            },
            0.8,
        ),
    }


def volume(rng: random.Random) -> Object:
    return {
        "spec": {
            "capacity": rng.choice([{"storage": "1Gi"}, {"storage": "0.5Gi"}, {"storage": "-1"}, {}]),
            "accessModes": rng.choice([["ReadWriteOnce"], ["ReadOnlyMany", "ReadWriteMany"], ["Odd"], []]),
            **rng.choice(
                [
                    {"hostPath": {"path": "/v"}},
                    {"hostPath": {"path": "../v"}},
                    {"nfs": {"server": "s", "path": "/v"}},
                    {"csi": {"driver": "d.io", "volumeHandle": "h"}},
                    {},
                ]
            ),
            **_some(
                rng,
                {
                    "persistentVolumeReclaimPolicy": ("Retain", "Delete", "Odd"),
                    "storageClassName": ("x", "Bad_"),
                    "volumeMode": ("Filesystem", "Block"),
                    "claimRef": {"namespace": "fuzz", "name": "a"},
                    "mountOptions": ["ro"],
                },
                0.25,
            ),
        }
    }


def storage_class(rng: random.Random) -> Object:
    return {
        "provisioner": rng.choice(["x.io/p", "x.io/q", "bad p"]),
        **_some(
            rng,
            {
                "reclaimPolicy": ("Delete", "Retain", "Recycle"),
                "volumeBindingMode": ("Immediate", "WaitForFirstConsumer", "Odd"),
                "parameters": ({"a": "1"}, {}),
                "allowVolumeExpansion": (True, False),
                "mountOptions": ["ro"],
            },
        ),
    }


def priority_class(rng: random.Random) -> Object:
    return {
        "value": rng.choice([0, 5, 1000, 2_000_000_000]),
        **_some(rng, {"description": "d", "preemptionPolicy": ("Never", "PreemptLowerPriority", "Odd")}),
    }


def ingress_class(rng: random.Random) -> Object:
    parameters = {"apiGroup": "x.io", "kind": "P", "name": "p"}
    return {
        "spec": _some(
            rng,
            {
                "controller": ("x.io/c", "x.io/d", "c", ""),
                "parameters": (
                    parameters,
                    {**parameters, "scope": "Cluster"},
                    {**parameters, "scope": "Namespace"},
                    {**parameters, "scope": "Namespace", "namespace": "n"},
                ),
            },
            0.7,
        )
    }


def namespace(rng: random.Random) -> Object:
    return rng.choice([{}, {}, {"spec": {}}, {"spec": {"finalizers": ["kubernetes", "x.io/f"]}}])


def admission_policy(rng: random.Random) -> Object:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["never"]}
    return {
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [
                {
                    "expression": rng.choice(["true", "object.metadata.name != 'x'", "1 +", "1"]),
                    **_some(rng, {"message": ("no", ""), "reason": ("Invalid", "Odd"), "messageExpression": "'no'"}),
                }
            ],
            **_some(rng, {"failurePolicy": ("Fail", "Ignore", "Odd"), "variables": [{"name": "v", "expression": "1"}]}),
        }
    }


def webhooks(rng: random.Random) -> Object:
    hook = {
        "name": rng.choice(["a.x.io", "a.x.io", "short"]),
        "clientConfig": rng.choice([{"url": "https://127.0.0.1:1/x"}, {"url": "http://x"}, {}]),
        "sideEffects": rng.choice(["None", "NoneOnDryRun", "Some"]),
        "admissionReviewVersions": rng.choice([["v1"], ["v1"], ["v9"], []]),
        "rules": [{"apiGroups": ["never.io"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["n"]}],
        **_some(rng, {"failurePolicy": ("Fail", "Odd"), "timeoutSeconds": (1, 31), "matchPolicy": "Exact"}),
    }
    return {"webhooks": rng.choice([[hook], [hook], [hook, hook], []])}


def gadget_v1(rng: random.Random) -> Object:
    return {
        "spec": _some(
            rng, {"size": (1, 2, "x"), "name": ("a", "b"), "old": ("o",), "list": (["a"], ["a", "b"], [])}, 0.5
        )
    }


def gadget_v2(rng: random.Random) -> Object:
    return {
        "spec": _some(
            rng, {"size": (1, 2, 9), "name": ("a", "b", None), "new": ("n", ""), "list": (["a"], ["c"])}, 0.5
        ),
        **_some(rng, {"status": {"ready": True}}, 0.2),
    }


_TEXT, _LIST = {"type": "string"}, {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}


def _version(name: str, spec: Object, **more: Any) -> Object:
    properties = {
        "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "list": _LIST, **spec}},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    }
    schema = {"openAPIV3Schema": {"type": "object", "properties": properties}}
    return {"name": name, "served": True, "storage": False, "schema": schema, **more}


GADGET: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.fuzz.example.com"},
    "spec": {
        "group": "fuzz.example.com",
        "scope": "Cluster",
        "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"},
        "versions": [
            _version("v1", {"name": _TEXT, "old": {"type": "string", "default": "was"}}, subresources={"status": {}}),
            _version(
                "v2",
                {"name": {**_TEXT, "nullable": True}, "new": {"type": "string", "default": "is"}},
                storage=True,
                subresources={"status": {}},
                selectableFields=[{"jsonPath": ".spec.name"}],
            ),
        ],
    },
}
"""Cluster-scoped, in two versions with fields and defaults of their own, converted by strategy None."""
