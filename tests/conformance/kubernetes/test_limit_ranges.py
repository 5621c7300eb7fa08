"""LimitRange: defaults, bounds, and the messages of what is out of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Object, Reply, Wire

ANNOTATION = "kubernetes.io/limit-ranger"


def pods(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/pods" + (f"/{name}" if name else "")


def pod(name: str, *resources: Object, init: Object | None = None, **spec: Any) -> Object:
    containers = [
        {"name": chr(ord("a") + i), "image": "busybox:1", "resources": one} for i, one in enumerate(resources or ({},))
    ]
    first = {"initContainers": [{"name": "i", "image": "busybox:1", "resources": init}]} if init is not None else {}
    return {"metadata": {"name": name}, "spec": {"containers": containers, **first, **spec}}


def claim(name: str, size: str) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"metadata": {"name": name}, "spec": spec}


def limit(wire: Wire, ns: str, *items: Object, name: str = "l") -> Reply:
    """Write a range and wait until it is in force (the real server learns of it by its own watch)."""
    made = wire.post(f"/api/v1/namespaces/{ns}/limitranges", {"metadata": {"name": name}, "spec": {"limits": items}})
    assert made.code == 201, made
    probe = {"type": "Container", "max": {"cpu": "0"}}
    body = {"metadata": {"name": f"{name}-probe"}, "spec": {"limits": [probe]}}
    assert wire.post(f"/api/v1/namespaces/{ns}/limitranges", body).code == 201
    asked = pod("probe", {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}})
    eventually(lambda: wire.post(pods(ns), asked, dryRun="All").code == 403, what="range in force")
    assert wire.delete(f"/api/v1/namespaces/{ns}/limitranges/{name}-probe").code == 200
    eventually(lambda: "is 0, but" not in str(wire.post(pods(ns), asked, dryRun="All").body.get("message")))
    return made


def refused(reply: Reply, *faults: str, what: str = 'pods "p"') -> None:
    assert (reply.code, reply.reason) == (403, "Forbidden"), reply
    assert reply["details"]["name"] == what.split('"')[1]
    text = reply["message"].removeprefix(f"{what} is forbidden: ")
    if len(faults) > 1:
        assert text[0] + text[-1] == "[]"
        text = text[1:-1]
    rest = text
    for fault in faults:
        assert fault in rest, text
        rest = rest.replace(fault, "", 1)
    assert not rest.strip(", "), text


def test_a_range_fills_in_its_own_defaults(wire: Wire, ns: str) -> None:
    made = limit(
        wire, ns,
        {"type": "Container", "max": {"cpu": "2", "memory": "1024Mi"}, "default": {"cpu": "1"},
         "min": {"cpu": "100m", "ephemeral-storage": "1k"}},
        {"type": "Pod", "max": {"cpu": "4"}},
    )  # fmt: skip
    item = made["spec"]["limits"][0]
    assert item["default"] == {"cpu": "1", "memory": "1Gi"}
    assert item["defaultRequest"] == {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1k"}
    assert made["spec"]["limits"][1] == {"type": "Pod", "max": {"cpu": "4"}}


def test_containers_are_given_what_they_leave_out(wire: Wire, ns: str) -> None:
    defaults = {"default": {"cpu": "1", "memory": "64Mi"}, "defaultRequest": {"cpu": "500m", "memory": "32Mi"}}
    limit(wire, ns, {"type": "Container", **defaults})
    made = wire.post(pods(ns), pod("p", {}, {"limits": {"cpu": "2"}}, init={"requests": {"memory": "16Mi"}}))
    assert made.code == 201, made
    first, second = (c["resources"] for c in made["spec"]["containers"])
    assert first == {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m", "memory": "32Mi"}}
    assert second == {"limits": {"cpu": "2", "memory": "64Mi"}, "requests": {"cpu": "2", "memory": "32Mi"}}
    init = made["spec"]["initContainers"][0]["resources"]
    assert init == {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m", "memory": "16Mi"}}
    assert made["metadata"]["annotations"][ANNOTATION] == (
        "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; memory request"
        " for container b; memory limit for container b; cpu request for init container i; cpu, memory limit for init"
        " container i"
    )
    assert made["status"]["qosClass"] == "Burstable"
    full = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}
    assert "annotations" not in wire.post(pods(ns), pod("whole", full))["metadata"]


def test_bounds_of_containers(wire: Wire, ns: str) -> None:
    ratio = {"memory": "2"}
    limit(wire, ns, {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}, "maxLimitRequestRatio": ratio})
    memory = {"limits": {"memory": "20Mi"}, "requests": {"memory": "10Mi"}}

    def asking(limits: Object, requests: Object) -> Reply:
        resources = {"limits": memory["limits"] | limits, "requests": memory["requests"] | requests}
        return wire.post(pods(ns), pod("p", resources), dryRun="All")

    assert asking({"cpu": "1"}, {"cpu": "0.1"}).code == 201
    refused(asking({"cpu": "1500m"}, {"cpu": "1"}), "maximum cpu usage per Container is 1, but limit is 1500m")
    refused(asking({"cpu": "1"}, {"cpu": "50m"}), "minimum cpu usage per Container is 100m, but request is 50m")
    refused(
        asking({"cpu": "3", "memory": "50Mi"}, {"cpu": "10m"}),
        "minimum cpu usage per Container is 100m, but request is 10m",
        "maximum cpu usage per Container is 1, but limit is 3",
        "memory max limit to request ratio per Container is 2, but provided ratio is 5.000000",
    )
    refused(
        wire.post(pods(ns), pod("p", {"limits": {"cpu": "1"}}), dryRun="All"),
        "memory max limit to request ratio per Container is 2, but no request is specified or request is 0",
    )
    refused(
        wire.post(pods(ns), pod("p", memory, init={"limits": {"cpu": "2", "memory": "1Mi"}}), dryRun="All"),
        "maximum cpu usage per Container is 1, but limit is 2",
    )


def test_bounds_of_whole_pods(wire: Wire, ns: str) -> None:
    limit(wire, ns, {"type": "Pod", "max": {"cpu": "2"}, "min": {"memory": "100Mi"}})
    half = {"limits": {"cpu": "1", "memory": "50Mi"}}
    assert wire.post(pods(ns), pod("p", half, half), dryRun="All").code == 201
    refused(
        wire.post(pods(ns), pod("p", half, half, {"limits": {"cpu": "1", "memory": "1Mi"}}), dryRun="All"),
        "maximum cpu usage per Pod is 2, but limit is 3",
    )
    refused(
        wire.post(pods(ns), pod("p", {"limits": {"cpu": "1"}}), dryRun="All"),
        "minimum memory usage per Pod is 100Mi.  No request is specified",
    )
    # Init containers run one after the other: the largest counts.
    refused(
        wire.post(pods(ns), pod("p", half, half, init={"limits": {"cpu": "2500m", "memory": "1Mi"}}), dryRun="All"),
        "maximum cpu usage per Pod is 2, but limit is 2500m",
    )
    refused(
        wire.post(pods(ns), pod("p", {"requests": {"cpu": "1", "memory": "1Gi"}}), dryRun="All"),
        "maximum cpu usage per Pod is 2.  No limit is specified",
    )


def test_bounds_of_claims(wire: Wire, ns: str) -> None:
    limit(wire, ns, {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}})
    claims = f"/api/v1/namespaces/{ns}/persistentvolumeclaims"
    what, begin = 'persistentvolumeclaims "p"', "imum storage usage per PersistentVolumeClaim is"
    refused(wire.post(claims, claim("p", "3Gi")), f"max{begin} 2Gi, but request is 3Gi", what=what)
    refused(wire.post(claims, claim("p", "1Mi")), f"min{begin} 1Gi, but request is 1Mi", what=what)
    assert wire.post(claims, claim("p", "1536Mi")).code == 201


@pytest.mark.parametrize(
    ("item", "causes"),
    [
        (
            {"type": "Pod", "default": {"cpu": "1"}},
            [("FieldValueForbidden", "spec.limits[0].default", "Forbidden: may not be specified when `type` is 'Pod'")],
        ),
        (
            {"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"},
             "defaultRequest": {"cpu": "1"}},
            [
                ("FieldValueInvalid", "spec.limits[0].default[cpu]",
                 'Invalid value: "2": min value 2 is greater than default value 1'),
                ("FieldValueInvalid", "spec.limits[0].defaultRequest[cpu]",
                 'Invalid value: "1": min value 2 is greater than default request value 1'),
                ("FieldValueInvalid", "spec.limits[0].min[cpu]",
                 'Invalid value: "2": min value 2 is greater than max value 1'),
            ],
        ),
        (
            {"type": "PersistentVolumeClaim", "default": {"storage": "1Gi"}},
            [("FieldValueRequired", "spec.limits[0].limits",
              "Required value: either minimum or maximum storage value is required, but neither was provided")],
        ),
        (
            {"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}},
            [("FieldValueInvalid", "spec.limits[0].maxLimitRequestRatio[cpu]",
              'Invalid value: "500m": ratio 500m is less than 1')],
        ),
        (
            {"type": "Wrong", "max": {"cpu": "1"}},
            [("FieldValueInvalid", "spec.limits[0].type",
              'Invalid value: "Wrong": must be a standard limit type or fully qualified')],
        ),
        (
            {"type": "Container", "max": {"storage": "1"}},
            [("FieldValueInvalid", f"spec.limits[0].{field}[storage]",
              'Invalid value: "storage": must be a standard resource for containers')
             for field in ("default", "defaultRequest", "max")],
        ),
    ],
)  # fmt: skip
def test_ranges_that_contradict_themselves(wire: Wire, ns: str, item: Object, causes: list[tuple[str, ...]]) -> None:
    reply = wire.post(f"/api/v1/namespaces/{ns}/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    assert (reply.code, reply.reason) == (422, "Invalid"), reply
    assert reply.causes == sorted(causes)
