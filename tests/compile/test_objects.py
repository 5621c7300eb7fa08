"""Whatever is compiled is accepted by Kubernetes, keeps to Pod Security `restricted`, and hangs together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sampan.cluster.apiserver.registry import strategy_for
from sampan.cluster.apiserver.strategy import Context, User
from sampan.compile import bindings, writer
from sampan.kube import kinds, schema
from sampan.kube.objects import Object

SNAPSHOTS = Path(__file__).parent / "snapshots"
POD_AT = {
    "Deployment": ("template",),
    "StatefulSet": ("template",),
    "Job": ("template",),
    "CronJob": ("jobTemplate", "spec", "template"),
}


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """(the object, its pod template)"""
    for obj in objects:
        if obj["kind"] in POD_AT:
            template = obj["spec"]
            for step in POD_AT[obj["kind"]]:
                template = template[step]
            yield obj, template


def containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def test_kubernetes_accepts_every_object(case: Any) -> None:
    for obj in case.objects:
        found = schema.for_kind(obj["apiVersion"], obj["kind"])
        assert found is not None, obj["kind"]
        where = f"{obj['kind']} {obj['metadata']['name']}"
        assert schema.unknown_fields(found, obj) == [], where
        assert schema.validate(found, obj) == [], where


def test_the_api_server_has_nothing_against_them(case: Any) -> None:
    """The rules beyond the schema: those of our own API server, which has them from the real one."""
    for obj in case.objects:
        resource = kinds.find(obj["apiVersion"], obj["kind"])
        assert resource is not None
        metadata, settings = obj["metadata"], {"service_cidr": "127.70.128.0/17"}
        context = Context(
            resource,
            metadata.get("namespace"),
            metadata["name"],
            User("me"),
            lambda *_: None,
            lambda *_: [],
            settings=settings,
        )
        strategy = strategy_for(resource)
        strategy.default(obj)
        strategy.prepare_create(obj, context)
        assert strategy.validate_create(obj) == [], f"{obj['kind']} {obj['metadata']['name']}"


def test_it_is_what_it_was(case: Any) -> None:
    """Golden output. `SAMPAN_UPDATE_SNAPSHOTS=1` writes it anew; read the difference before you commit it."""
    if case.name.startswith("shop"):
        return  # the example changes for reasons of its own
    path = SNAPSHOTS / f"{case.name}.yaml"
    text = writer.dump(case.objects)
    if os.environ.get("SAMPAN_UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert path.read_text() == text


def test_pods_are_restricted(case: Any) -> None:
    for obj, template in pods(case.objects):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        allowed = ({"configMap", "secret", "emptyDir", "persistentVolumeClaim"},)
        assert all(volume.keys() - {"name"} <= allowed[0] for volume in spec["volumes"])
        for container in containers(template):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, obj["metadata"]["name"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])


def test_names_refer_to_what_there_is(case: Any) -> None:
    objects = case.objects
    there = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    assert len(there) == len(objects), "two objects of one kind and name"
    provided = {binding.name for binding in bindings(case.app, case.environment, backing=case.backing)}
    namespaces = {obj["metadata"].get("namespace") for obj in objects if obj["kind"] != "Namespace"}
    assert namespaces == {next(iter(name for kind, name in there if kind == "Namespace"))}
    for obj, template in pods(objects):
        spec = template["spec"]
        account = spec.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        claims = {claim["metadata"]["name"] for claim in obj["spec"].get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "secret" in volume:
                assert volume["secret"]["secretName"] in provided
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
        for container in containers(template):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | claims
    for obj in objects:
        if obj["kind"] == "Ingress":
            for rule in obj["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    assert ("Service", path["backend"]["service"]["name"]) in there
        if obj["kind"] == "HorizontalPodAutoscaler":
            target = obj["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in there
        if obj["kind"] == "Service":
            chosen = obj["spec"]["selector"].items()
            assert [t for _, t in pods(objects) if chosen <= t["metadata"]["labels"].items()]


def test_secrets_are_referred_to_never_written(case: Any) -> None:
    assert not [obj for obj in case.objects if obj["kind"] == "Secret"]


def test_compiling_twice_gives_the_same_and_shares_nothing_with_the_model(case: Any) -> None:
    first = writer.dump(case.objects)
    for obj in case.objects:
        obj["metadata"]["labels"]["spoilt"] = "yes"
    for _, template in pods(case.objects):
        for container in containers(template):
            container["securityContext"]["capabilities"]["drop"].clear()
    assert writer.dump(case.objects) == first
