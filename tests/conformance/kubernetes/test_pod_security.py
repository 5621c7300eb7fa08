"""Pod Security admission: the labels of a namespace, every check of the standards, warnings for templates and pods."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Object, Reply, Wire

PREFIX = "pod-security.kubernetes.io/"
GOOD: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""A container's security context that keeps the level restricted."""


def pods(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/pods"


def pod(change: Callable[[Object], None] | None = None, **context: Any) -> Object:
    """A pod that keeps every standard but for what `change` does to its spec and `context` to its container."""
    container = {"name": "a", "image": "busybox:1", "securityContext": {**copy.deepcopy(GOOD), **context}}
    spec: Object = {"containers": [container]}
    if change is not None:
        change(spec)
    return {"metadata": {"name": "p"}, "spec": spec}


def label(wire: Wire, ns: str, **labels: str | None) -> Reply:
    """Set labels of Pod Security; a dash stands for an underscore. Waits until they are in force."""
    body = {"metadata": {"labels": {PREFIX + key.replace("_", "-"): value for key, value in labels.items()}}}
    reply = wire.patch(f"/api/v1/namespaces/{ns}", body)
    if reply.code == 200 and labels.get("enforce"):
        wanted = reply["metadata"]["labels"]
        shown = wanted[f"{PREFIX}enforce"] + ":" + wanted.get(f"{PREFIX}enforce-version", "latest")
        bad = pod(lambda spec: spec.update(hostPID=True))
        if labels["enforce"] == "privileged":
            eventually(lambda: wire.post(pods(ns), bad, dryRun="All").code == 201)
        else:
            eventually(lambda: f'"{shown}"' in wire.post(pods(ns), bad, dryRun="All").body.get("message", ""))
    return reply


def refused(reply: Reply, level: str, detail: str) -> None:
    assert (reply.code, reply.reason) == (403, "Forbidden"), reply
    assert reply["message"] == f'pods "p" is forbidden: violates PodSecurity "{level}": {detail}'


def spec_of(**fields: Any) -> Callable[[Object], None]:
    return lambda spec: spec.update(fields)


def container_of(**fields: Any) -> Callable[[Object], None]:
    return lambda spec: spec["containers"][0].update(fields)


def second(**context: Any) -> Callable[[Object], None]:
    """A second container and an init container, of this security context."""

    def change(spec: Object) -> None:
        for group, name in (("containers", "b"), ("initContainers", "i")):
            one = {"name": name, "image": "busybox:1", "securityContext": {**copy.deepcopy(GOOD), **context}}
            spec.setdefault(group, []).append(one)

    return change


BASELINE: list[tuple[Object, str]] = [
    (pod(spec_of(hostNetwork=True, hostPID=True, hostIPC=True)),
     "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)"),
    (pod(spec_of(volumes=[{"name": "v", "hostPath": {"path": "/tmp"}}, {"name": "w", "hostPath": {"path": "/"}}])),
     'hostPath volumes (volumes "v", "w")'),
    (pod(container_of(ports=[{"containerPort": 80, "hostPort": 81}, {"containerPort": 82, "hostPort": 80}])),
     'hostPort (container "a" uses hostPorts 80, 81)'),
    (pod(container_of(livenessProbe={"httpGet": {"port": 80, "host": "10.0.0.1"}},
                      lifecycle={"preStop": {"httpGet": {"port": 80, "host": "there"}}})),
     'probe or lifecycle host (container "a" uses probe or lifecycle hosts "10.0.0.1", "there")'),
    (pod(privileged=True, allowPrivilegeEscalation=True),
     'privileged (container "a" must not set securityContext.privileged=true)'),
    (pod(second(capabilities={"add": ["NET_RAW", "CHOWN", "SYS_TIME"]})),
     'non-default capabilities (containers "i", "b" must not include "NET_RAW", "SYS_TIME" in'
     " securityContext.capabilities.add)"),
    (pod(spec_of(securityContext={"seLinuxOptions": {"type": "other", "user": "u"}}), seLinuxOptions={"role": "r"}),
     'seLinuxOptions (pod and container "a" set forbidden securityContext.seLinuxOptions: type "other"; user may not be'
     " set; role may not be set)"),
    (pod(seccompProfile={"type": "Unconfined"}),
     'seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")'),
    (pod(spec_of(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"},
                                              {"name": "net.ipv4.tcp_rmem", "value": "1"}]})),
     "forbidden sysctls (kernel.msgmax)"),
    (pod(appArmorProfile={"type": "Unconfined"}),
     'forbidden AppArmor profile (container "a" must not set AppArmor profile type to "Unconfined")'),
    (pod(spec_of(hostPID=True), privileged=True, allowPrivilegeEscalation=True),
     'host namespaces (hostPID=true), privileged (container "a" must not set securityContext.privileged=true)'),
]  # fmt: skip
RESTRICTED: list[tuple[Object, str]] = [
    (pod(allowPrivilegeEscalation=None),
     'allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false)'),
    (pod(capabilities={"add": ["CHOWN", "NET_BIND_SERVICE"]}),
     'unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]; container "a" must'
     ' not include "CHOWN" in securityContext.capabilities.add)'),
    (pod(spec_of(volumes=[{"name": "v", "hostPath": {"path": "/tmp"}}, {"name": "e", "emptyDir": {}},
                          {"name": "w", "nfs": {"server": "s", "path": "/"}}])),
     'restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")'),
    (pod(runAsNonRoot=None),
     'runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)'),
    (pod(spec_of(securityContext={"runAsNonRoot": True}), runAsNonRoot=False),
     'runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false)'),
    (pod(spec_of(securityContext={"runAsUser": 0}), runAsUser=0),
     'runAsUser=0 (pod and container "a" must not set runAsUser=0)'),
    (pod(seccompProfile=None),
     'seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or'
     ' "Localhost")'),
    (pod(spec_of(hostPID=True), runAsNonRoot=None),
     'host namespaces (hostPID=true), runAsNonRoot != true (pod or container "a" must set'
     " securityContext.runAsNonRoot=true)"),
    (pod(procMount="Unmasked", allowPrivilegeEscalation=False) | {"_users": False},
     'procMount (container "a" must not set securityContext.procMount to "Unmasked")'),
]  # fmt: skip


@pytest.mark.parametrize(("level", "rows"), [("baseline", BASELINE), ("restricted", RESTRICTED)])
def test_the_checks_of_a_level(wire: Wire, ns: str, level: str, rows: list[tuple[Object, str]]) -> None:
    label(wire, ns, enforce=level)
    assert wire.post(pods(ns), pod(), dryRun="All").code == 201
    for body, detail in rows:
        sent = copy.deepcopy(body)
        if sent.pop("_users", None) is False:  # masks come off only in a user namespace
            sent["spec"]["hostUsers"] = False
        refused(wire.post(pods(ns), sent, dryRun="All"), f"{level}:latest", detail)


def test_annotations_of_profiles(wire: Wire, ns: str) -> None:
    label(wire, ns, enforce="baseline")
    body = pod()
    body["metadata"]["annotations"] = {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}
    reply = wire.post(pods(ns), body, dryRun="All")
    assert reply.code == 403 and reply["message"].startswith('pods "p" is forbidden: violates PodSecurity'), reply
    assert "forbidden AppArmor profile" in reply["message"]


def test_versions_of_the_standards(wire: Wire, ns: str) -> None:
    probing = pod(container_of(livenessProbe={"httpGet": {"port": 80, "host": "10.0.0.1"}}))
    label(wire, ns, enforce="baseline", enforce_version="v1.33")
    assert wire.post(pods(ns), probing, dryRun="All").code == 201, "hosts of probes are looked at since 1.34"
    label(wire, ns, enforce_version="v1.34", enforce="baseline")
    assert wire.post(pods(ns), probing, dryRun="All").code == 403
    bare = pod(capabilities=None, seccompProfile=None)
    label(wire, ns, enforce="restricted", enforce_version="v1.18")
    assert wire.post(pods(ns), bare, dryRun="All").code == 201, "profiles since 1.19, dropped capabilities since 1.22"
    label(wire, ns, enforce="restricted", enforce_version="v1.21")
    refused(
        wire.post(pods(ns), bare, dryRun="All"), "restricted:v1.21",
        'seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or'
        ' "Localhost")',
    )  # fmt: skip
    label(wire, ns, enforce="restricted", enforce_version="v1.99")
    assert wire.post(pods(ns), pod(runAsNonRoot=None), dryRun="All").code == 403, "newer than known is the newest"


def test_enforcing_warns_too_and_templates_are_only_warned_of(wire: Wire, ns: str) -> None:
    label(wire, ns, enforce="baseline", warn="restricted")
    detail = 'runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)'
    quoted = f'299 - "would violate PodSecurity "restricted:latest": {detail}"'.replace('"', '\\"')
    warning = quoted.replace('299 - \\"', '299 - "', 1)[:-2] + '"'
    made = wire.post(pods(ns), pod(runAsNonRoot=None), dryRun="All")
    assert made.code == 201 and made.warnings == [warning]
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod(privileged=True, allowPrivilegeEscalation=True)["spec"]}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    body = {"metadata": {"name": "d"}, "spec": spec}
    made = wire.post(f"/apis/apps/v1/namespaces/{ns}/deployments", body, dryRun="All")
    assert made.code == 201, "a template is never refused"
    assert 'would violate PodSecurity \\"restricted:latest\\": privileged' in made.warnings[0]
    job = {"template": {"spec": {**pod(runAsNonRoot=None)["spec"], "restartPolicy": "Never"}}}
    for path, kind_spec in (
        (f"/apis/batch/v1/namespaces/{ns}/jobs", job),
        (f"/apis/batch/v1/namespaces/{ns}/cronjobs", {"schedule": "* * * * *", "jobTemplate": {"spec": job}}),
    ):
        made = wire.post(path, {"metadata": {"name": "j"}, "spec": kind_spec}, dryRun="All")
        assert (made.code, made.warnings) == (201, [warning]), made
    label(wire, ns, warn=None, enforce="restricted")
    made = wire.post(f"/apis/batch/v1/namespaces/{ns}/jobs", {"metadata": {"name": "j"}, "spec": job}, dryRun="All")
    assert (made.code, made.warnings) == (201, [warning]), "enforcing alone warns of templates as well"


def test_updates_are_looked_at_when_images_change(wire: Wire, ns: str) -> None:
    made = wire.post(pods(ns), pod(runAsNonRoot=None))
    assert made.code == 201
    label(wire, ns, enforce="restricted")
    path = f"{pods(ns)}/p"
    assert wire.patch(path, {"metadata": {"labels": {"a": "b"}}}).code == 200
    image = [{"op": "replace", "path": "/spec/containers/0/image", "value": "busybox:2"}]
    reply = wire.patch(path, image, "application/json-patch+json")
    refused(
        reply, "restricted:latest",
        'runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)',
    )  # fmt: skip


def test_raising_the_level_tells_of_pods_that_are_there(wire: Wire, ns: str) -> None:
    rooted: Object
    mighty: Object
    rooted, mighty = {"runAsNonRoot": None}, {"privileged": True, "allowPrivilegeEscalation": True}
    contexts: dict[str, Object] = {"a": rooted, "b": rooted, "c": {}, "d": mighty}
    for name, context in contexts.items():
        body = pod(**context)
        body["metadata"]["name"] = name
        assert wire.post(pods(ns), body).code == 201
    labels = {"metadata": {"labels": {f"{PREFIX}enforce": "restricted"}}}
    dry = wire.patch(f"/api/v1/namespaces/{ns}", labels, dryRun="All")
    head = f'existing pods in namespace "{ns}" violate the new PodSecurity enforce level "restricted:latest"'
    lines = [head, "a (and 1 other pod): runAsNonRoot != true", "d: privileged, allowPrivilegeEscalation != false"]
    assert [line.removeprefix('299 - "')[:-1].replace('\\"', '"') for line in dry.warnings] == lines, dry.warnings
    assert wire.patch(f"/api/v1/namespaces/{ns}", labels).warnings == dry.warnings
    # upstream tries a patch on what its cache holds, and keeps the warnings of that try
    cached = {"resourceVersion": "0"}
    path = f"/api/v1/namespaces/{ns}"
    eventually(
        lambda: f"{PREFIX}enforce" in wire.get(path, **cached)["metadata"]["labels"], what="the label in the cache"
    )
    lower = {"metadata": {"labels": {f"{PREFIX}enforce": "baseline"}}}
    assert wire.patch(f"/api/v1/namespaces/{ns}", lower).warnings == [], "a lower level says nothing"


def test_labels_that_are_wrong(wire: Wire, ns: str) -> None:
    reply = label(wire, ns, enforce="strict", warn_version="1.2")
    assert (reply.code, reply.reason) == (422, "Invalid"), reply
    assert reply.causes == [
        ("FieldValueInvalid", f"metadata.labels[{PREFIX}enforce]",
         'Invalid value: "strict": must be one of privileged, baseline, restricted'),
        ("FieldValueInvalid", f"metadata.labels[{PREFIX}warn-version]",
         'Invalid value: "1.2": must be "latest" or "v1.x"'),
    ]  # fmt: skip
