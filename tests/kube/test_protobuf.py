"""Protobuf bodies: those kubectl really sends, and those nobody should."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import protobuf, schema
from sampan.kube.protobuf import ProtobufError, decode


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def part(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def body(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\0" + part(1, part(1, api_version) + part(2, kind)) + part(2, raw) + part(3, "") + part(4, "")


def test_a_pod_with_every_kind_of_field() -> None:
    meta = part(1, "web") + part(8, part(1, 1_700_000_000)) + part(11, part(1, "app") + part(2, "x"))
    limits = part(1, part(1, "cpu") + part(2, part(1, "500m")))
    check = part(2, part(1, "/") + part(2, part(1, 1) + part(3, "http")))
    probe = part(1, check) + part(2, 0) + part(3, 7)
    port = part(1, "") + part(2, 0) + part(3, 80) + part(4, "TCP")
    container = part(1, "c") + part(2, "img") + part(6, port) + part(8, limits) + part(10, probe)
    volume = part(1, "v") + part(2, part(2, b""))
    spec = part(1, volume) + part(2, container) + part(4, 0) + part(10, "") + part(11, 0)
    obj = decode(body("v1", "Pod", part(1, meta) + part(2, spec) + part(3, b"")))
    assert obj["metadata"] == {"name": "web", "creationTimestamp": "2023-11-14T22:13:20Z", "labels": {"app": "x"}}
    assert obj["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert obj["spec"]["terminationGracePeriodSeconds"] == 0, "a pointer to zero is kept"
    assert "hostNetwork" not in obj["spec"], "a plain zero is not"
    found = obj["spec"]["containers"][0]
    assert found["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert found["livenessProbe"]["httpGet"] == {"path": "/", "port": "http"}
    assert found["livenessProbe"]["timeoutSeconds"] == 7
    assert found["resources"] == {"limits": {"cpu": "500m"}}


def test_secret_bytes_negative_numbers_and_micro_time() -> None:
    data = part(2, part(1, "key") + part(2, b"\xff\x00"))
    assert decode(body("v1", "Secret", data))["data"] == {"key": "/wA="}
    assert decode(body("scheduling.k8s.io/v1", "PriorityClass", part(2, -5)))["value"] == -5
    lease = part(2, part(1, "me") + part(4, part(1, 1) + part(2, 1_234_000)))
    assert decode(body("coordination.k8s.io/v1", "Lease", lease))["spec"] == {
        "holderIdentity": "me",
        "renewTime": "1970-01-01T00:00:01.001234Z",
    }


def test_options_are_known_under_every_version() -> None:
    raw = part(1, 0) + part(4, "Background")
    assert decode(body("policy/v1", "DeleteOptions", raw)) == {
        "apiVersion": "policy/v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
    }


def test_custom_schemas_in_definitions() -> None:
    items = part(24, part(1, part(5, "string")))
    rules = part(5, "array") + items + part(8, part(1, b"[1,2]"))
    version = part(1, "v1") + part(2, 1) + part(3, 1) + part(4, part(1, rules))
    crd = decode(body("apiextensions.k8s.io/v1", "CustomResourceDefinition", part(2, part(1, "g") + part(7, version))))
    assert crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] == {
        "type": "array",
        "items": {"type": "string"},
        "default": [1, 2],
    }


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"k8s\0\x08\x01", body("v1", "Nothing", b""), body("v1", "Pod", b"\x0a\xff"), b"k8s\0\x0a"],
)
def test_malformed_bodies_are_refused(data: bytes) -> None:
    with pytest.raises(ProtobufError):
        decode(data)


@given(st.binary(max_size=200), st.sampled_from(["Pod", "Secret", "Service", "ConfigMap"]))
def test_noise_never_breaks_out(noise: bytes, kind: str) -> None:
    with suppress(ProtobufError):
        decode(body("v1", kind, noise))


def test_deep_nesting_is_refused() -> None:
    raw = part(5, "object")
    for _ in range(500):
        raw = part(28, raw)  # `not`
    version = part(4, part(1, raw))
    with pytest.raises(ProtobufError):
        decode(body("apiextensions.k8s.io/v1", "CustomResourceDefinition", part(2, part(7, version))))


# -- the real thing ----------------------------------------------------------------------------------------------------


def newest_kubectl() -> str | None:
    found = shutil.which("kubectl")
    if found is None:
        return None
    versions = sorted(Path(found).resolve().parent.glob("kubectl.1.3[2-9]"))
    return str(versions[-1]) if versions else None


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    seen: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.path, self.headers.get("Content-Type", ""), data))
            answer = b'{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}'
            self.send_response(403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", seen
    http.shutdown()
    thread.join()
    http.server_close()


COMMANDS = [
    ("create deployment web --image=nginx --replicas=0 --port=80", "apps/v1", "Deployment"),
    ("create configmap c --from-literal=a=b", "v1", "ConfigMap"),
    ("create secret generic s --from-literal=p=q", "v1", "Secret"),
    ("create namespace n", "v1", "Namespace"),
    ("create job j --image=busybox -- echo hi", "batch/v1", "Job"),
    ("create cronjob cj --image=busybox --schedule=*/1_*_*_*_* -- date", "batch/v1", "CronJob"),
    ("create service clusterip svc --tcp=80:8080", "v1", "Service"),
    ("create ingress i --rule=example.com/*=svc:80", "networking.k8s.io/v1", "Ingress"),
    ("create poddisruptionbudget p --selector=app=x --min-available=50%", "policy/v1", "PodDisruptionBudget"),
    ("create quota q --hard=cpu=1,memory=1G", "v1", "ResourceQuota"),
    ("create rolebinding rb --clusterrole=view --user=me", "rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("create priorityclass pc --value=7", "scheduling.k8s.io/v1", "PriorityClass"),
    ("create token default", "authentication.k8s.io/v1", "TokenRequest"),
    ("auth whoami", "authentication.k8s.io/v1", "SelfSubjectReview"),
]


def test_what_kubectl_sends(server: tuple[str, list[tuple[str, str, bytes]]], tmp_path: Path) -> None:
    kubectl = newest_kubectl()
    if kubectl is None:
        pytest.skip("needs a kubectl of 1.32 or later beside the one on the PATH")
    address, seen = server
    environment = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none"), "PATH": "/usr/bin:/bin"}
    found: dict[str, dict[str, Any]] = {}
    for command, api_version, kind in COMMANDS:
        before = len(seen)
        arguments = [word.replace("_", " ") for word in command.split()]
        subprocess.run(
            [kubectl, "--server", address, *arguments], env=environment, timeout=30, capture_output=True, check=False
        )
        assert len(seen) > before, command
        _, content_type, data = seen[-1]
        assert content_type == protobuf.MEDIA_TYPE, command
        obj = decode(data)
        assert (obj["apiVersion"], obj["kind"]) == (api_version, kind)
        node = schema.for_kind(api_version, kind)
        assert node is not None
        assert schema.unknown_fields(node, obj) == []
        assert schema.validate(node, obj) == []
        found[kind] = obj
    web = found["Deployment"]["spec"]
    assert web["replicas"] == 0
    assert web["template"]["spec"]["containers"] == [
        {"name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {}}
    ]
    assert found["Secret"]["data"] == {"p": "cQ=="}
    assert found["CronJob"]["spec"]["schedule"] == "*/1 * * * *"
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] == "50%"
    assert found["Service"]["spec"]["ports"] == [{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080}]
    assert found["ResourceQuota"]["spec"]["hard"] == {"cpu": "1", "memory": "1G"}
