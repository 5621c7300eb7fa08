"""Bad manifests get upstream's causes: the path, the reason and the message, exactly."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1"}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: web, image: "nginx:1"}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""
INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
"""
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: pi}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: pi, image: "perl:5"}]}}}
"""
HPA = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, minReplicas: 1, maxReplicas: 3}
"""
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {}, ingress: [{}]}
"""
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {}}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}

LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    " an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def put(path: str, value: Any) -> Any:
    """A change that sets `path` (dots, numbers index lists), or removes it when `value` is None."""

    def change(obj: Any) -> None:
        *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")]
        for step in parents:
            obj = obj[step] if isinstance(step, int) else obj.setdefault(step, {})
        if value is None:
            del obj[last]
        elif isinstance(last, int) and last == len(obj):
            obj.append(value)
        else:
            obj[last] = value

    return change


C = "spec/containers/0"
BAD: list[tuple[Any, str, Any, list[tuple[str, str]]]] = [
    (
        DEPLOYMENT,
        "spec/template/metadata/labels",
        {"app": "other"},
        [
            (
                "spec.template.metadata.labels",
                'Invalid value: {"app":"other"}: `selector` does not match template `labels`',
            )
        ],
    ),
    (
        DEPLOYMENT,
        "spec/selector",
        None,
        [
            ("spec.selector", "Required value"),
            (
                "spec.template.metadata.labels",
                'Invalid value: {"app":"web"}: `selector` does not match template `labels`',
            ),
        ],
    ),
    (
        DEPLOYMENT,
        "spec/selector",
        {},
        [("spec.selector", "Invalid value: {}: empty selector is invalid for deployment")],
    ),
    (
        DEPLOYMENT,
        "spec/replicas",
        -1,
        [("spec.replicas", "Invalid value: -1: must be greater than or equal to 0")],
    ),
    (
        DEPLOYMENT,
        "spec/template/spec/restartPolicy",
        "Never",
        [("spec.template.spec.restartPolicy", 'Unsupported value: "Never": supported values: "Always"')],
    ),
    (
        DEPLOYMENT,
        "spec/strategy",
        {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}},
        [("spec.strategy.rollingUpdate", "Forbidden: may not be specified when strategy `type` is 'Recreate'")],
    ),
    (
        DEPLOYMENT,
        "spec/strategy",
        {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
        [("spec.strategy.rollingUpdate.maxUnavailable", "Invalid value: 0: may not be 0 when `maxSurge` is 0")],
    ),
    (
        DEPLOYMENT,
        "spec/template/spec/containers",
        [],
        [("spec.template.spec.containers", "Required value")],
    ),
    (POD, f"{C}/name", "Web", [("spec.containers[0].name", f'Invalid value: "Web": {LABEL}')]),
    (POD, f"{C}/image", None, [("spec.containers[0].image", "Required value")]),
    (
        POD,
        "spec/containers/1",
        {"name": "web", "image": "a:1"},
        [("spec.containers[1].name", 'Duplicate value: "web"')],
    ),
    (
        POD,
        f"{C}/imagePullPolicy",
        "Sometimes",
        [
            (
                "spec.containers[0].imagePullPolicy",
                'Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"',
            )
        ],
    ),
    (
        POD,
        f"{C}/ports",
        [{"containerPort": 70000}],
        [
            (
                "spec.containers[0].ports[0].containerPort",
                "Invalid value: 70000: must be between 1 and 65535, inclusive",
            )
        ],
    ),
    (
        POD,
        f"{C}/ports",
        [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}],
        [("spec.containers[0].ports[1].name", 'Duplicate value: "a"')],
    ),
    (
        POD,
        f"{C}/volumeMounts",
        [{"name": "data", "mountPath": "/data"}],
        [("spec.containers[0].volumeMounts[0].name", 'Not found: "data"')],
    ),
    (
        POD,
        f"{C}/resources",
        {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
        [("spec.containers[0].resources.requests", 'Invalid value: "2": must be less than or equal to cpu limit of 1')],
    ),
    (
        POD,
        f"{C}/livenessProbe",
        {"periodSeconds": 5},
        [("spec.containers[0].livenessProbe", "Required value: must specify a handler type")],
    ),
    (
        POD,
        f"{C}/readinessProbe",
        {"httpGet": {"port": 80}, "tcpSocket": {"port": 80}},
        [("spec.containers[0].readinessProbe.tcpSocket", "Forbidden: may not specify more than 1 handler type")],
    ),
    (
        POD,
        f"{C}/livenessProbe",
        {"tcpSocket": {"port": 80}, "successThreshold": 2},
        [("spec.containers[0].livenessProbe.successThreshold", "Invalid value: 2: must be 1")],
    ),
    (
        POD,
        f"{C}/env",
        [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        [
            (
                "spec.containers[0].env[0].valueFrom",
                'Invalid value: "": may not be specified when `value` is not empty',
            )
        ],
    ),
    (
        POD,
        "spec/volumes",
        [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}],
        [("spec.volumes[1].name", 'Duplicate value: "a"')],
    ),
    (
        POD,
        "spec/volumes",
        [{"name": "a", "emptyDir": {}, "secret": {"secretName": "b"}}],
        [("spec.volumes[0].secret", "Forbidden: may not specify more than 1 volume type")],
    ),
    (
        POD,
        "spec/restartPolicy",
        "sometimes",
        [
            (
                "spec.restartPolicy",
                'Unsupported value: "sometimes": supported values: "Always", "OnFailure", "Never"',
            )
        ],
    ),
    (SERVICE, "spec/ports", None, [("spec.ports", "Required value")]),
    (
        SERVICE,
        "spec/ports",
        [{"port": 80}, {"port": 81, "name": "b"}],
        [("spec.ports[0].name", "Required value")],
    ),
    (
        SERVICE,
        "spec/ports/0/nodePort",
        30080,
        [("spec.ports[0].nodePort", "Forbidden: may not be used when `type` is 'ClusterIP'")],
    ),
    (
        SERVICE,
        "spec/type",
        "Public",
        [
            (
                "spec.type",
                'Unsupported value: "Public": supported values:'
                ' "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
            )
        ],
    ),
    (
        INGRESS,
        "spec/rules/0/http/paths/0/pathType",
        None,
        [("spec.rules[0].http.paths[0].pathType", "Required value: pathType must be specified")],
    ),
    (
        INGRESS,
        "spec/rules/0/http/paths/0/path",
        "api",
        [("spec.rules[0].http.paths[0].path", 'Invalid value: "api": must be an absolute path')],
    ),
    (
        INGRESS,
        "spec/rules/0/host",
        "10.0.0.1",
        [("spec.rules[0].host", 'Invalid value: "10.0.0.1": must be a DNS name, not an IP address')],
    ),
    (
        INGRESS,
        "spec/rules",
        None,
        [("spec", "Invalid value: null: either `defaultBackend` or `rules` must be specified")],
    ),
    (
        JOB,
        "spec/template/spec/restartPolicy",
        None,
        [("spec.template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"')],
    ),
    (
        HPA,
        "spec/maxReplicas",
        0,
        [
            ("spec.maxReplicas", "Required value: must be set and greater than 0"),
            ("spec.maxReplicas", "Invalid value: 0: must be greater than or equal to `minReplicas`"),
        ],
    ),
    (
        HPA,
        "spec/minReplicas",
        5,
        [("spec.maxReplicas", "Invalid value: 3: must be greater than or equal to `minReplicas`")],
    ),
    (
        POLICY,
        "spec/ingress/0/from",
        [{"ipBlock": {"cidr": "10.0.0.0"}}],
        [
            (
                "spec.ingress[0].from[0].ipBlock.cidr",
                'Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
            )
        ],
    ),
    (
        SECRET,
        "type",
        "kubernetes.io/tls",
        [("data[tls.crt]", "Required value"), ("data[tls.key]", "Required value")],
    ),
    (
        SECRET,
        "data",
        {"password": "not base64"},
        [("data[password]", 'Invalid value: "<secret contents redacted>": must be base64 encoded')],
    ),
]


@pytest.mark.parametrize(("base", "path", "value", "expected"), BAD, ids=lambda v: v if isinstance(v, str) else None)
def test_bad_manifest(registry: Any, base: Any, path: str, value: Any, expected: list[tuple[str, str]]) -> None:
    obj = yaml.safe_load(base) if isinstance(base, str) else deepcopy(base)
    put(path, value)(obj)
    _, causes = registry.try_create(obj)
    assert [(cause.field, cause.message) for cause in causes] == expected


CHANGES: list[tuple[Any, str, Any, list[tuple[str, str]]]] = [
    (
        DEPLOYMENT,
        "spec/selector/matchLabels",
        {"app": "web", "tier": "x"},
        [
            (
                "spec.template.metadata.labels",
                'Invalid value: {"app":"web"}: `selector` does not match template `labels`',
            ),
            ("spec.selector", 'Invalid value: {"matchLabels":{"app":"web","tier":"x"}}: field is immutable'),
        ],
    ),
    (DEPLOYMENT, "spec/replicas", 5, []),
    (DEPLOYMENT, "spec/template/spec/containers/0/image", "nginx:2", []),
    (POD, f"{C}/image", "nginx:2", []),
    (POD, "metadata/labels", {"a": "b"}, []),
    (
        SERVICE,
        "spec/clusterIP",
        "127.70.128.99",
        [("spec.clusterIPs[0]", 'Invalid value: ["127.70.128.99"]: may not change once set')],
    ),
    (SERVICE, "spec/clusterIP", None, []),
    (SERVICE, "spec/type", "NodePort", []),
    ({**CONFIG, "immutable": True}, "data/a", "b", [("data", "Forbidden: field is immutable when `immutable` is set")]),
    ({**SECRET, "type": "Opaque"}, "type", "other", [("type", 'Invalid value: "other": field is immutable')]),
]


@pytest.mark.parametrize(
    ("base", "path", "value", "expected"), CHANGES, ids=lambda v: v if isinstance(v, str) else None
)
def test_change(registry: Any, base: Any, path: str, value: Any, expected: list[tuple[str, str]]) -> None:
    obj = registry.create(base)
    _, causes = registry.try_update(obj, put(path, value))
    assert [(cause.field, cause.message) for cause in causes] == expected


def test_pod_spec_may_not_change(registry: Any) -> None:
    pod = registry.create(POD)
    _, causes = registry.try_update(pod, put(f"{C}/command", ["x"]))
    assert causes[0].field == "spec"
    assert causes[0].message.startswith("Forbidden: pod updates may not change fields other than")


def test_job_template_may_not_change(registry: Any) -> None:
    job = registry.create(JOB)
    _, causes = registry.try_update(job, put("spec/template/spec/containers/0/image", "perl:6"))
    assert [cause.field for cause in causes] == ["spec.template"]
    assert causes[0].message.endswith(": field is immutable")
