"""Warnings of what is accepted although it is old, ambiguous, or hardly means what it says, kind by kind.

Those of pods, volumes and claims are in `advice.py`, those of templates in `templates.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from sampan.cluster.apiserver.registry.base import lookup
from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.cluster.apiserver.registry.spellings import address, network
from sampan.kube import quantity
from sampan.kube.objects import Object

Notice = Callable[[Object, "Object | None"], list[str]]
"""What to tell of a new object and the one it replaces, if any."""


def _addresses(path: str, values: Any, field: str = "") -> list[str]:
    """Of the addresses in a list, or in a field of its elements."""
    rows = maps(values) if field else values if isinstance(values, list) else ()
    return [
        line
        for index, row in enumerate(rows)
        for line in address(f"{path}[{index}]{'.' + field if field else ''}", row.get(field) if field else row)
    ]


def _service(new: Object, old: Object | None) -> list[str]:
    spec, notes = sub(new, "spec"), lookup(new, "metadata.annotations") or {}
    told, headless = [], spec.get("clusterIP") == "None" and spec.get("type") == "ClusterIP"
    hints, mode = "service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"
    if hints in notes:
        told.append(f"annotation {hints} is deprecated, please use {mode} instead")
    if spec.get("clusterIP") not in (None, "", "None"):
        told += _addresses("spec.clusterIPs", spec.get("clusterIPs"))
    outer = spec.get("externalIPs") or []
    if headless:
        told += [
            f"spec.{field} is ignored for headless services"
            for field in ("loadBalancerIP", "externalIPs")
            if spec.get(field)
        ]
    told += _addresses("spec.externalIPs", outer)
    if outer and not headless and spec.get("type") != "ExternalName":
        told.append("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
    if spec.get("loadBalancerIP"):
        told += address("spec.loadBalancerIP", spec["loadBalancerIP"])
    for index, cidr in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        told += network(f"spec.loadBalancerSourceRanges[{index}]", cidr)
    if spec.get("type") == "ExternalName" and outer:
        told.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
    if spec.get("trafficDistribution") == "PreferClose":
        told.append('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"')
    return told


def _balancer_status(new: Object, old: Object | None) -> list[str]:
    rows = maps(lookup(new, "status.loadBalancer.ingress"))
    path = "status.loadBalancer.ingress"
    return [line for i, row in enumerate(rows) if row.get("ip") for line in address(f"{path}[{i}]", row["ip"])]


def _pod_status(new: Object, old: Object | None) -> list[str]:
    status = sub(new, "status")
    return _addresses("status.podIPs", status.get("podIPs"), "ip") + _addresses(
        "status.hostIPs", status.get("hostIPs"), "ip"
    )


def _ingress(new: Object, old: Object | None) -> list[str]:
    note = "kubernetes.io/ingress.class"
    given = old is None and note in (lookup(new, "metadata.annotations") or {})
    if not given or lookup(new, "spec.ingressClassName") is not None:
        return []
    return [f"annotation \"{note}\" is deprecated, please use 'spec.ingressClassName' instead"]


def _network_policy(new: Object, old: Object | None) -> list[str]:
    told = []
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(maps(sub(new, "spec").get(direction))):
            for position, peer in enumerate(maps(rule.get(peers))):
                block, path = sub(peer, "ipBlock"), f"spec.{direction}[{index}].{peers}[{position}].ipBlock"
                told += network(f"{path}.cidr", block.get("cidr"))
                for number, cidr in enumerate(block.get("except") or ()):
                    told += network(f"{path}.except[{number}]", cidr)
    return told


_MANAGED = "endpointslice.kubernetes.io/managed-by"
_CONTROLLERS = {"endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"}


def _slice(new: Object, old: Object | None) -> list[str]:
    if (lookup(new, "metadata.labels") or {}).get(_MANAGED) in _CONTROLLERS:
        return []
    rows = enumerate(maps(new.get("endpoints")))
    return [line for index, row in rows for line in _addresses(f"endpoints[{index}].addresses", row.get("addresses"))]


def _endpoints(new: Object, old: Object | None) -> list[str]:
    if (lookup(new, "metadata.labels") or {}).get("endpoints.kubernetes.io/managed-by") == "endpoint-controller":
        return []
    return [
        line
        for index, subset in enumerate(maps(new.get("subsets")))
        for field in ("addresses", "notReadyAddresses")
        for line in _addresses(f"subsets[{index}].{field}", subset.get(field), "ip")
    ]


_RESOURCES = ("cpu", "memory", "storage", "ephemeral-storage")


def _quota(new: Object, old: Object | None) -> list[str]:
    hard, told = lookup(new, "spec.hard") or {}, []
    for name in _RESOURCES if old is None else ():
        bare = name in ("cpu", "memory") and f"requests.{name}" not in hard
        request, limit = name if bare else f"requests.{name}", f"limits.{name}"
        if request in hard and limit in hard and quantity.parse(hard[request]) > quantity.parse(hard[limit]):
            told.append(f"ResourceQuota {request} ({hard[request]}) should be less than {limit} ({hard[limit]})")
    return told


_MOUNTABLE = "kubernetes.io/enforce-mountable-secrets"


def _account(new: Object, old: Object | None) -> list[str]:
    noted = [_MOUNTABLE in (lookup(obj, "metadata.annotations") or {}) for obj in (new, old) if obj]
    use = "prefer separate namespaces to isolate access to mounted secrets"
    return (
        [f"metadata.annotations[{_MOUNTABLE}]: deprecated in v1.32+; {use}"] if noted in ([True], [True, False]) else []
    )


def _certificate(new: Object, old: Object | None) -> list[str]:
    """Of a certificate or a key that is none at all."""
    data = lookup(new, "data") or {}
    for field, part in (("tls.crt", "certificate"), ("tls.key", "key")) if new.get("type") == _TLS else ():
        try:
            text = base64.b64decode(data.get(field) or "")
        except (ValueError, TypeError):  # which is refused
            return []
        if b"-----BEGIN " not in text:
            return [f"tls: failed to find any PEM data in {part} input"]
    return []


_TLS = "kubernetes.io/tls"


def _node(new: Object, old: Object | None) -> list[str]:
    spec = sub(new, "spec")
    told = ["spec.configSource: the feature is removed"] if spec.get("configSource") is not None else []
    if spec.get("externalID"):
        told.append("spec.externalID: this field is deprecated, and is unused by Kubernetes")
    for index, cidr in enumerate(spec.get("podCIDRs") or ()):
        told += network(f"spec.podCIDRs[{index}]", cidr)
    return told


def _reserved(new: Object, old: Object | None) -> list[str]:
    if not str(new["metadata"].get("name")).endswith(".static.k8s.io"):
        return []
    return [
        'metadata.name: names ending with ".static.k8s.io" are reserved for static manifest-based configurations and'
        " cannot be managed via the API"
    ]


_ADMISSION = "admissionregistration.k8s.io"
NOTICES: dict[tuple[str, str], tuple[Notice, ...]] = {
    ("", "Service"): (_service,),
    ("", "Endpoints"): (_endpoints,),
    ("", "ResourceQuota"): (_quota,),
    ("", "Secret"): (_certificate,),
    ("", "ServiceAccount"): (_account,),
    ("", "Node"): (_node,),
    ("networking.k8s.io", "Ingress"): (_ingress,),
    ("networking.k8s.io", "NetworkPolicy"): (_network_policy,),
    ("discovery.k8s.io", "EndpointSlice"): (_slice,),
    **{
        (_ADMISSION, kind): (_reserved,)
        for kind in (
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
        )
    },
}
OF_STATUS: dict[tuple[str, str], tuple[Notice, ...]] = {
    ("", "Pod"): (_pod_status,),
    ("", "Service"): (_balancer_status,),
    ("networking.k8s.io", "Ingress"): (_balancer_status,),
}
"""What writes of the status are told of: nothing else."""


def notices(group: str, kind: str, new: Object, old: Object | None, *, status: bool = False) -> list[str]:
    """What to tell of an object of a built-in kind, but for its pod spec."""
    rows = (OF_STATUS if status else NOTICES).get((group, kind), ())
    return [line for row in rows for line in row(new, old)]
