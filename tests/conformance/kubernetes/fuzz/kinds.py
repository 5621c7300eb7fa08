"""The kinds the fuzzer works on, and random objects of them: mostly valid, with values the kinds care about."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.conformance.kubernetes.fuzz import more_kinds as more

Object = dict[str, Any]
NAMESPACE, APART = "fuzz", "fuzz-apart"
"""Where most objects are made; where those are that would change what may be made beside them."""


@dataclass(frozen=True)
class Fuzzed:
    """A kind and how a valid object of it is made. `namespace`: empty for a cluster-scoped kind."""

    path: str
    make: Callable[[random.Random], Object]
    subresources: tuple[str, ...] = ()
    custom: bool = False
    namespace: str = NAMESPACE


def labels(rng: random.Random) -> dict[str, str]:
    return {k: rng.choice("xyz") for k in rng.sample(["app", "tier", "x.io/z"], rng.randint(0, 3))}


def container(rng: random.Random, name: str = "main") -> Object:
    made: Object = {
        "name": name,
        "image": rng.choice(["nginx", "nginx:1", "busybox:latest", "r.io/x@sha256:" + "0" * 64]),
    }
    if rng.random() < 0.5:
        made["ports"] = [
            {"containerPort": rng.choice([80, 443, 8080]), **rng.choice([{}, {"name": "http"}, {"protocol": "UDP"}])}
        ]
    if rng.random() < 0.4:
        made["env"] = [{"name": n, "value": rng.choice("12")} for n in rng.sample(["A", "B", "C"], rng.randint(1, 3))]
    if rng.random() < 0.3:
        made["resources"] = {
            "requests": {
                "cpu": rng.choice(["100m", "0.1", "1", "1500m"]),
                "memory": rng.choice(["64Mi", "1Gi", "128M"]),
            }
        }
    if rng.random() < 0.2:
        made["readinessProbe"] = {
            "httpGet": {"path": "/", "port": rng.choice([80, "http"])},
            **rng.choice([{}, {"periodSeconds": 3}]),
        }
    if rng.random() < 0.2:
        made["securityContext"] = {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}}
    if rng.random() < 0.2:
        made["volumeMounts"] = [{"name": "v", "mountPath": rng.choice(["/v", "/w"])}]
    return made


def pod_spec(rng: random.Random, **more: Any) -> Object:
    spec: Object = {"containers": [container(rng, n) for n in rng.sample(["main", "side"], rng.randint(1, 2))]}
    if any("volumeMounts" in c for c in spec["containers"]) or rng.random() < 0.2:
        spec["volumes"] = [
            {
                "name": "v",
                **rng.choice([{"emptyDir": {}}, {"configMap": {"name": "a"}}, {"secret": {"secretName": "s"}}]),
            }
        ]
    if rng.random() < 0.2:
        spec["tolerations"] = [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]
    if rng.random() < 0.2:
        spec["nodeSelector"] = {"disk": "ssd"}
    return {**spec, **more}


def template(rng: random.Random, selected: dict[str, str], **more: Any) -> Object:
    return {
        "metadata": {"labels": {**selected, **labels(rng)}} if rng.random() < 0.95 else {},
        "spec": pod_spec(rng, **more),
    }


def workload(rng: random.Random, **more: Any) -> Object:
    selected = {"app": rng.choice("xy")}
    made: Object = {"selector": {"matchLabels": selected}, "template": template(rng, selected), **more}
    made["template"]["metadata"].setdefault("labels", {})["app"] = selected["app"]
    return made


def config_map(rng: random.Random) -> Object:
    made: Object = {"data": {k: rng.choice(["1", "2", ""]) for k in rng.sample("abc", rng.randint(0, 3))}}
    if rng.random() < 0.2:
        made["binaryData"] = {"bin": rng.choice(["AAEC", "!"])}
    if rng.random() < 0.1:
        made["immutable"] = rng.random() < 0.7
    return made


def secret(rng: random.Random) -> Object:
    made: Object = {"data": dict.fromkeys(rng.sample("abc", rng.randint(0, 2)), "eA==")}
    if rng.random() < 0.4:
        made["stringData"] = {"s": "text"}
    if rng.random() < 0.3:
        made["type"] = rng.choice(["Opaque", "example.com/x", "kubernetes.io/tls", "kubernetes.io/basic-auth"])
    return made


def service_port(rng: random.Random, port: int) -> Object:
    name: Object = {"name": f"p{port}"}
    more: list[Object] = [{}, name, {**name, "targetPort": rng.choice([80, "http"])}, {"protocol": "UDP"}]
    return {"port": port, **rng.choice(more)}


def service(rng: random.Random) -> Object:
    ports = [service_port(rng, port) for port in rng.sample([80, 443, 8080], rng.randint(1, 2))]
    spec: Object = {"ports": ports, "selector": labels(rng)}
    kind = rng.random()
    if kind < 0.2:
        spec["clusterIP"] = "None"
    elif kind < 0.3:
        spec = {"type": "ExternalName", "externalName": rng.choice(["example.com", "bad name"])}
    elif kind < 0.4:
        spec["type"] = rng.choice(["NodePort", "LoadBalancer"])
    if rng.random() < 0.2:
        spec["sessionAffinity"] = rng.choice(["ClientIP", "None", "Sometimes"])
    return {"spec": spec}


def deployment(rng: random.Random) -> Object:
    spec = workload(rng, **rng.choice([{}, {"replicas": rng.randint(0, 3)}]))
    if rng.random() < 0.3:
        spec["strategy"] = rng.choice(
            [
                {"type": "Recreate"},
                {"rollingUpdate": {"maxSurge": rng.choice([1, "25%", "x%"])}},
                {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
            ]
        )
    return {"spec": spec}


def stateful_set(rng: random.Random) -> Object:
    spec = workload(rng, serviceName="web", **rng.choice([{}, {"replicas": 2}]))
    if rng.random() < 0.3:
        spec["volumeClaimTemplates"] = [
            {
                "metadata": {"name": "d"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }
        ]
    return {"spec": spec}


def replication_controller(rng: random.Random) -> Object:
    selected = {"app": rng.choice("xy")}
    spec: Object = {"template": template(rng, selected), **rng.choice([{}, {"replicas": 1}, {"minReadySeconds": 1}])}
    return {"spec": {**spec, **rng.choice([{}, {"selector": selected}, {"selector": {"app": "z"}}])}}


def job(rng: random.Random) -> Object:
    spec: Object = {
        "template": {"spec": pod_spec(rng, restartPolicy=rng.choice(["Never", "OnFailure", "Never", "Always"]))}
    }
    spec |= rng.choice(
        [
            {},
            {"completions": 2, "parallelism": 1},
            {"backoffLimit": 2},
            {"suspend": True},
            {"completionMode": "Indexed", "completions": 3},
        ]
    )
    return {"spec": spec}


def cron_job(rng: random.Random) -> Object:
    return {
        "spec": {
            "schedule": rng.choice(["*/5 * * * *", "@hourly", "nonsense", "0 0 1 1 *"]),
            "jobTemplate": job(rng),
            **rng.choice([{}, {"concurrencyPolicy": "Forbid"}, {"timeZone": "Europe/Paris"}, {"suspend": True}]),
        }
    }


def ingress(rng: random.Random) -> Object:
    backend = rng.choice(
        [
            {"service": {"name": "s", "port": {"number": 80}}},
            {"service": {"name": "s", "port": {"name": "http"}}},
            {"service": {"name": "s"}},
        ]
    )
    path = {
        "path": rng.choice(["/", "/api", "nope"]),
        "pathType": rng.choice(["Prefix", "Exact", "ImplementationSpecific"]),
        "backend": backend,
    }
    return {
        "spec": {
            "rules": [
                {
                    **rng.choice([{}, {"host": "a.example"}, {"host": "*.example"}, {"host": "bad host"}]),
                    "http": {"paths": [path]},
                }
            ],
            **rng.choice([{}, {"ingressClassName": "nginx"}, {"tls": [{"hosts": ["a.example"], "secretName": "t"}]}]),
        }
    }


def network_policy(rng: random.Random) -> Object:
    peer = rng.choice(
        [
            {"podSelector": {"matchLabels": labels(rng)}},
            {"ipBlock": {"cidr": rng.choice(["10.0.0.0/8", "bad"]), "except": ["10.1.0.0/16"]}},
            {"namespaceSelector": {}},
        ]
    )
    rule = {"from": [peer], "ports": [{"port": rng.choice([80, "http"]), **rng.choice([{}, {"protocol": "TCP"}])}]}
    return {
        "spec": {
            "podSelector": {"matchLabels": labels(rng)},
            "ingress": [rule],
            **rng.choice([{}, {"policyTypes": ["Ingress"]}, {"policyTypes": ["Ingress", "Egress"]}]),
        }
    }


def autoscaler(rng: random.Random) -> Object:
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": rng.choice([50, 0])}},
    }
    return {
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"},
            "maxReplicas": rng.choice([5, 0, 1]),
            **rng.choice([{}, {"minReplicas": 2}]),
            **rng.choice([{}, {"metrics": [metric]}]),
        }
    }


def disruption_budget(rng: random.Random) -> Object:
    return {
        "spec": {
            "selector": {"matchLabels": labels(rng)},
            **rng.choice(
                [
                    {"minAvailable": 1},
                    {"maxUnavailable": "25%"},
                    {"minAvailable": 1, "maxUnavailable": 1},
                    {"minAvailable": "x"},
                ]
            ),
        }
    }


def claim(rng: random.Random) -> Object:
    return {
        "spec": {
            "accessModes": [rng.choice(["ReadWriteOnce", "ReadWriteMany", "Never"])],
            "resources": {"requests": {"storage": rng.choice(["1Gi", "1.5Gi", "0", "-1"])}},
            **rng.choice([{}, {"storageClassName": "x"}]),
        }
    }


def role(rng: random.Random) -> Object:
    return {
        "rules": [
            {"apiGroups": [rng.choice(["", "apps"])], "resources": ["pods"], "verbs": rng.choice([["get"], ["*"], []])}
        ]
    }


def role_binding(rng: random.Random) -> Object:
    return {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": rng.choice("ab")},
        "subjects": [
            rng.choice(
                [
                    {"kind": "User", "name": "u"},
                    {"kind": "ServiceAccount", "name": "sa", "namespace": NAMESPACE},
                    {"kind": "Thing", "name": "u"},
                ]
            )
        ],
    }


def widget(rng: random.Random) -> Object:
    spec: Object = {"size": rng.choice([1, 2, 11, "3", None]), "mode": rng.choice(["fast", "slow", "odd"])}
    if rng.random() < 0.4:
        spec["parts"] = [{"name": n, "count": rng.randint(1, 3)} for n in rng.sample("pqr", rng.randint(0, 3))]
    if rng.random() < 0.3:
        spec["tags"] = rng.choice([["t"], ["t", "u"], ["t", "t"]])
    if rng.random() < 0.2:
        spec["unknown"] = {"x": 1}
    if rng.random() < 0.3:
        spec["free"] = {"any": rng.choice([1, "x", {"deep": [1]}])}
    return {"spec": spec}


WIDGET = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.fuzz.example.com"},
    "spec": {
        "group": "fuzz.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
                },
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["mode"],
                                "properties": {
                                    "size": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
                                    "mode": {"type": "string", "enum": ["fast", "slow"]},
                                    "parts": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["name"],
                                        "items": {
                                            "type": "object",
                                            "required": ["name"],
                                            "properties": {
                                                "name": {"type": "string"},
                                                "count": {"type": "integer", "default": 1},
                                            },
                                        },
                                    },
                                    "tags": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "set",
                                        "items": {"type": "string", "maxLength": 5},
                                    },
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                            },
                            "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
                        },
                    }
                },
            }
        ],
    },
}

KINDS: dict[str, Fuzzed] = {
    "v1/ConfigMap": Fuzzed("configmaps", config_map),
    "v1/Secret": Fuzzed("secrets", secret),
    "v1/Service": Fuzzed("services", service, ("status",)),
    "v1/Pod": Fuzzed("pods", lambda rng: {"spec": pod_spec(rng)}, ("status",)),
    "v1/PersistentVolumeClaim": Fuzzed("persistentvolumeclaims", claim, ("status",)),
    "v1/ServiceAccount": Fuzzed(
        "serviceaccounts", lambda rng: rng.choice([{}, {"automountServiceAccountToken": False}])
    ),
    "apps/v1/Deployment": Fuzzed("deployments", deployment, ("status", "scale")),
    "apps/v1/StatefulSet": Fuzzed("statefulsets", stateful_set, ("status", "scale")),
    "apps/v1/DaemonSet": Fuzzed("daemonsets", lambda rng: {"spec": workload(rng)}, ("status",)),
    "apps/v1/ReplicaSet": Fuzzed("replicasets", lambda rng: {"spec": workload(rng, replicas=1)}, ("status", "scale")),
    "batch/v1/Job": Fuzzed("jobs", job, ("status",)),
    "batch/v1/CronJob": Fuzzed("cronjobs", cron_job, ("status",)),
    "networking.k8s.io/v1/Ingress": Fuzzed("ingresses", ingress, ("status",)),
    "networking.k8s.io/v1/NetworkPolicy": Fuzzed("networkpolicies", network_policy),
    "autoscaling/v2/HorizontalPodAutoscaler": Fuzzed("horizontalpodautoscalers", autoscaler, ("status",)),
    "policy/v1/PodDisruptionBudget": Fuzzed("poddisruptionbudgets", disruption_budget, ("status",)),
    "rbac.authorization.k8s.io/v1/Role": Fuzzed("roles", role),
    "rbac.authorization.k8s.io/v1/RoleBinding": Fuzzed("rolebindings", role_binding),
    "coordination.k8s.io/v1/Lease": Fuzzed(
        "leases",
        lambda rng: {"spec": {"holderIdentity": rng.choice("ab"), "leaseDurationSeconds": rng.choice([15, 0])}},
    ),
    "fuzz.example.com/v1/Widget": Fuzzed("widgets", widget, ("status", "scale"), custom=True),
    "v1/ReplicationController": Fuzzed("replicationcontrollers", replication_controller, ("status", "scale")),
    "v1/PodTemplate": Fuzzed("podtemplates", lambda rng: {"template": template(rng, {"app": "x"})}),
    "v1/Endpoints": Fuzzed("endpoints", more.endpoints),
    "v1/Event": Fuzzed("events", more.core_event),
    "events.k8s.io/v1/Event": Fuzzed("events", more.event),
    "v1/ResourceQuota": Fuzzed("resourcequotas", more.resource_quota, ("status",), namespace=APART),
    "v1/LimitRange": Fuzzed("limitranges", more.limit_range, namespace=APART),
    "discovery.k8s.io/v1/EndpointSlice": Fuzzed("endpointslices", more.endpoint_slice),
    "autoscaling/v1/HorizontalPodAutoscaler": Fuzzed("horizontalpodautoscalers", more.autoscaler_v1, ("status",)),
    "rbac.authorization.k8s.io/v1/ClusterRole": Fuzzed("clusterroles", more.cluster_role, namespace=""),
    "rbac.authorization.k8s.io/v1/ClusterRoleBinding": Fuzzed(
        "clusterrolebindings", more.cluster_role_binding, namespace=""
    ),
    "v1/PersistentVolume": Fuzzed("persistentvolumes", more.volume, ("status",), namespace=""),
    "v1/Namespace": Fuzzed("namespaces", more.namespace, ("status", "finalize"), namespace=""),
    "storage.k8s.io/v1/StorageClass": Fuzzed("storageclasses", more.storage_class, namespace=""),
    "scheduling.k8s.io/v1/PriorityClass": Fuzzed("priorityclasses", more.priority_class, namespace=""),
    "networking.k8s.io/v1/IngressClass": Fuzzed("ingressclasses", more.ingress_class, namespace=""),
    "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy": Fuzzed(
        "validatingadmissionpolicies", more.admission_policy, ("status",), namespace=""
    ),
    "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration": Fuzzed(
        "validatingwebhookconfigurations", more.webhooks, namespace=""
    ),
    "fuzz.example.com/v1/Gadget": Fuzzed("gadgets", more.gadget_v1, ("status",), custom=True, namespace=""),
    "fuzz.example.com/v2/Gadget": Fuzzed("gadgets", more.gadget_v2, ("status",), custom=True, namespace=""),
}
