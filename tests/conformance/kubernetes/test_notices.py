"""What is accepted and warned of, kind by kind; and addresses that are written otherwise than they should be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.wire import Wire

Object = dict[str, Any]
CONTAINER: Object = {"name": "c", "image": "i"}
SECCOMP = "seccomp.security.alpha.kubernetes.io/pod"
APPARMOR = "container.apparmor.security.beta.kubernetes.io/c"
OLD_OS = 'deprecated since v1.14; use "kubernetes.io/os" instead'


def template(annotations: Object | None = None, **spec: Any) -> Object:
    metadata = {"labels": {"app": "x"}, **({"annotations": annotations} if annotations else {})}
    return {"metadata": metadata, "spec": {"containers": [CONTAINER], **spec}}


def told(reply: Any) -> list[str]:
    """The warnings of a write that was accepted, as they are meant."""
    assert reply.code in (200, 201), reply
    return sorted(line.removeprefix('299 - "').removesuffix('"').replace('\\"', '"') for line in reply.warnings)


def core(ns: str, plural: str) -> str:
    return f"/api/v1/namespaces/{ns}/{plural}"


def expression(key: str, value: str = "a") -> Object:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}


NEEDED, WISHED = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
TEMPLATES: dict[str, tuple[Object, list[str]]] = {
    "seccomp": (
        template({SECCOMP: "runtime/default"}),
        [f'metadata.annotations[{SECCOMP}]: non-functional in v1.27+; use the "seccompProfile" field instead'],
    ),
    "critical": (
        template({"scheduler.alpha.kubernetes.io/critical-pod": "1"}),
        [
            "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the"
            ' "priorityClassName" field instead'
        ],
    ),
    "apparmor": (
        template({APPARMOR: "runtime/default"}),
        [f'metadata.annotations[{APPARMOR}]: deprecated since v1.30; use the "appArmorProfile" field instead'],
    ),
    "node affinity": (
        template(affinity={"nodeAffinity": {NEEDED: {"nodeSelectorTerms": [expression("beta.kubernetes.io/os")]}}}),
        [
            f"spec.affinity.nodeAffinity.{NEEDED}.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os"
            f" is {OLD_OS}"
        ],
    ),
    "name servers": (
        template(dnsPolicy="None", dnsConfig={"nameservers": ["2001:DB8::1"]}),
        [
            'spec.dnsConfig.nameservers[0]: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format'
            ' ("2001:db8::1")'
        ],
    ),
    "overlapping files": (
        template(
            volumes=[
                {
                    "name": "v",
                    "configMap": {"name": "m", "items": [{"key": "a", "path": "p"}, {"key": "b", "path": "p/q"}]},
                }
            ]
        ),
        ['volume "v" (ConfigMap "m"): overlapping paths: "p/q" with "p"'],
    ),
    "claims": (
        template(
            volumes=[
                {
                    "name": "e",
                    "ephemeral": {
                        "volumeClaimTemplate": {
                            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1.5"}}}
                        }
                    },
                }
            ]
        ),
        [
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value"
            ' "1500m" is invalid, must be an integer'
        ],
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_pods(wire: Wire, ns: str, name: str) -> None:
    pods, lines = TEMPLATES[name]
    wanted = [line if line.startswith("volume ") else f"template.{line}" for line in lines]
    path = core(ns, "podtemplates")
    assert told(wire.post(path, {"metadata": {"name": "a"}, "template": pods})) == wanted
    assert told(wire.patch(f"{path}/a", {"metadata": {"labels": {"l": "1"}}})) == []
    changed = {"template": {"metadata": {"labels": {"l": "1"}}}}
    assert told(wire.patch(f"{path}/a", changed)) == wanted, "of a changed template again"


def test_names_that_pods_take_over(wire: Wire, ns: str) -> None:
    spec = {"selector": {"matchLabels": {"app": "x"}}, "template": template()}
    made = wire.post(f"/apis/apps/v1/namespaces/{ns}/deployments", {"metadata": {"name": "a.b"}, "spec": spec})
    assert told(made) == [
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label"
        " is recommended: [must not contain dots]"
    ]
    refused = wire.post(
        f"/apis/apps/v1/namespaces/{ns}/statefulsets",
        {"metadata": {"name": "a.b"}, "spec": {**spec, "serviceName": "s"}},
    )
    assert [(field, message) for _, field, message in refused.causes] == [
        ("metadata.name", 'Invalid value: "a.b": must not contain dots')
    ]


def test_services(wire: Wire, ns: str) -> None:
    ports = [{"port": 80}]
    path = core(ns, "services")

    def lines(**spec: Any) -> list[str]:
        return told(wire.post(path, {"metadata": {"name": "a"}, "spec": {"ports": ports, **spec}}, dryRun="All"))

    old = "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
    assert lines(externalIPs=["1.2.3.4"]) == [old]
    assert lines(clusterIP="None", selector={"a": "b"}, externalIPs=["1.2.3.4"]) == [
        "spec.externalIPs is ignored for headless services"
    ]
    assert lines(trafficDistribution="PreferClose") == [
        'spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"'
    ]
    assert lines(type="LoadBalancer", loadBalancerSourceRanges=["2001:DB8::/32"]) == [
        'spec.loadBalancerSourceRanges[0]: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format'
        ' ("2001:db8::/32")'
    ]
    wrong = wire.post(path, {
        "metadata": {"name": "a"},
        "spec": {"ports": ports, "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8", "010.0.0.0/8"]},
    })  # fmt: skip
    assert [(field, message) for _, field, message in wrong.causes] == [
        ("spec.LoadBalancerSourceRanges[0]",
         'Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length'),
        ("spec.LoadBalancerSourceRanges[1]",
         'Invalid value: "010.0.0.0/8": must not have leading 0s in IP or prefix length'),
    ]  # fmt: skip


def test_the_status_of_balancers(wire: Wire, ns: str) -> None:
    path = core(ns, "services")
    for name, kind in (("a", "ClusterIP"), ("b", "LoadBalancer")):
        assert (
            wire.post(path, {"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}}).code == 201
        )

    def lead(name: str, **row: Any) -> Any:
        return wire.patch(f"{path}/{name}/status", {"status": {"loadBalancer": {"ingress": [row]}}})

    def wrong(reply: Any) -> set[tuple[str, str]]:
        assert reply.code == 422, reply
        return {(field.removeprefix("status.loadBalancer.ingress"), message) for _, field, message in reply.causes}

    assert wrong(lead("a", ip="1.2.3.4")) == {("", "Forbidden: may only be used when `spec.type` is 'LoadBalancer'")}
    assert lead("b", ip="1.2.3.4")["status"]["loadBalancer"]["ingress"] == [{"ip": "1.2.3.4", "ipMode": "VIP"}]
    assert wrong(lead("b", ip="1.2.3.4", ipMode="Odd")) == {
        ("[0].ipMode", 'Unsupported value: "Odd": supported values: "Proxy", "VIP"')
    }
    assert wrong(lead("b", ip="010.1.1.1")) == {("[0].ip", 'Invalid value: "010.1.1.1": must not have leading 0s')}
    assert wrong(lead("b", hostname="1.2.3.4")) == {
        ("[0].hostname", 'Invalid value: "1.2.3.4": must be a DNS name, not an IP address')
    }
    assert told(lead("b", ip="2001:DB8::1")) == [
        'status.loadBalancer.ingress[0]: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format'
        ' ("2001:db8::1")'
    ]


def test_others(wire: Wire, ns: str) -> None:
    hard = {"cpu": "9999", "limits.cpu": "9998"}
    assert told(wire.post(core(ns, "resourcequotas"), {"metadata": {"name": "a"}, "spec": {"hard": hard}})) == [
        "ResourceQuota cpu (9999) should be less than limits.cpu (9998)"
    ]
    wire.delete(f"{core(ns, 'resourcequotas')}/a")
    accounts, mount = core(ns, "serviceaccounts"), "kubernetes.io/enforce-mountable-secrets"
    noted = {"metadata": {"annotations": {mount: "true"}}}
    assert wire.post(accounts, {"metadata": {"name": "a"}}).code == 201
    assert [line.split(":")[0] for line in told(wire.patch(f"{accounts}/a", noted))] == [
        f"metadata.annotations[{mount}]"
    ]
    assert told(wire.patch(f"{accounts}/a", {"metadata": {"labels": {"l": "1"}}})) == []
    backend = {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}
    old = {"name": "a", "annotations": {"kubernetes.io/ingress.class": "x"}}
    ingresses = f"/apis/networking.k8s.io/v1/namespaces/{ns}/ingresses"
    assert told(wire.post(ingresses, {"metadata": old, "spec": backend})) == [
        "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
    ]
    data = {"tls.crt": "eA==", "tls.key": "eA=="}
    secret = {"metadata": {"name": "a"}, "type": "kubernetes.io/tls", "data": data}
    assert told(wire.post(core(ns, "secrets"), secret)) == ["tls: failed to find any PEM data in certificate input"]
    policies = f"/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"
    peer = {"ipBlock": {"cidr": "10.0.0.1/8"}}
    body = {"metadata": {"name": "a"}, "spec": {"podSelector": {}, "ingress": [{"from": [peer]}]}}
    assert wire.post(policies, body).causes[0][2] == (
        'Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length'
    )
