"""Every kubectl from 1.27 to 1.33 that this machine has does the daily round: they speak different protocols.

1.27 and 1.28 ask for OpenAPI v2 and SPDY streams, up to 1.29 discovery is v2beta1, from 1.32 bodies are protobuf.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import System, kubectl_of, until

VERSIONS = ("1.27", "1.28", "1.29", "1.30", "1.31", "1.32", "1.33")
MANIFESTS = Path(__file__).parent / "manifests"


@pytest.fixture(scope="module", params=VERSIONS)
def old(request: pytest.FixtureRequest, cluster: System) -> Iterator[System]:
    """The cluster, driven by the kubectl of one version, whose context is a namespace of its own."""
    program = kubectl_of(request.param)
    if program is None:
        pytest.skip(f"kubectl {request.param} is not on this machine")
    system = System(cluster.directory, program)
    name = f"v{request.param.replace('.', '-')}"
    system.kubectl("create", "namespace", name)
    system.kubectl("config", "set-context", "--current", f"--namespace={name}")
    system.kubectl("apply", "-f", str(MANIFESTS / "web.yaml"))
    system.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    yield system
    system.kubectl("config", "set-context", "--current", "--namespace=default")
    system.kubectl("delete", "namespace", name, "--wait=false")


def test_reading(old: System) -> None:
    assert re.search(r"web +2/2 +2 +2 ", old.kubectl("get", "deployments", "-o", "wide"))
    assert "replicas: 2\n" in old.kubectl("get", "deployment", "web", "-o", "yaml")
    assert "MinimumReplicasAvailable" in old.kubectl("describe", "deployment", "web")
    assert "QoS Class:" in old.kubectl("describe", "pods", "-l", "app=web")
    assert "KubeletReady" in old.kubectl("describe", "node", "sampan")
    assert "deployments " in old.kubectl("api-resources")
    assert "Limits describes" in old.kubectl("explain", "pod.spec.containers.resources")
    assert "yes" in old.kubectl("auth", "can-i", "create", "pods")
    assert "sampan-admin" in old.kubectl("auth", "whoami")
    assert "ScalingReplicaSet" in old.kubectl("events")
    assert "v1.36" in old.kubectl("version")
    until(lambda: "web-" in old.kubectl("top", "pods", check=False), 20, "usage is known")
    assert "sampan" in old.kubectl("top", "nodes")


def test_writing(old: System) -> None:
    for kind in ("configmap a --from-literal=x=y", "secret generic a --from-literal=x=y", "serviceaccount a",
                 "job a --image=busybox -- true", "role a --verb=get --resource=pods", "quota a --hard=pods=90",
                 "deployment a --image=busybox --replicas=0", "ingress a --rule=a.example.com/=a:80"):  # fmt: skip
        assert "created" in old.kubectl("create", *kind.split(" "))
    assert old.kubectl("create", "token", "a").count(".") == 2
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: 'y'}\n"
    assert old.kubectl("apply", "-f", "-", stdin=manifest) == "configmap/b created\n"
    assert old.kubectl("apply", "-f", "-", stdin=manifest) == "configmap/b unchanged\n"
    changed = manifest.replace("'y'", "z")
    assert old.run_kubectl("diff", "-f", "-", stdin=changed).returncode == 1
    assert old.kubectl("apply", "-f", "-", stdin=changed) == "configmap/b configured\n"
    assert old.kubectl("apply", "--server-side", "-f", "-", stdin=changed) == "configmap/b serverside-applied\n"
    refused = old.kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=manifest, check=False)
    assert 'conflict with "kubectl' in refused
    unknown = old.run_kubectl("apply", "-f", "-", stdin=changed + "dada: {}\n")
    assert (unknown.returncode, 'unknown field "dada"' in unknown.stderr) == (1, True), unknown
    old.kubectl("patch", "configmap", "b", "-p", '{"data":{"p":"q"}}')
    old.kubectl("label", "configmap", "b", "k=v")
    old.kubectl("annotate", "configmap", "b", "k=v")
    data = json.loads(old.kubectl("get", "configmap", "b", "-o", "json"))
    assert (data["data"], data["metadata"]["labels"]) == ({"x": "z", "p": "q"}, {"k": "v"})
    old.kubectl("delete", "configmaps,secrets,jobs,roles,quota,ingress,sa", "a", "--timeout=20s")


def test_edit(old: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_EDITOR", "sed -i 's/revisionHistoryLimit: .*/revisionHistoryLimit: 7/'")
    assert "edited" in old.kubectl("edit", "deployment", "web")
    assert old.kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.revisionHistoryLimit}") == "7"


def test_rollouts(old: System) -> None:
    old.kubectl("scale", "deployment/web", "--replicas=1")
    old.kubectl("set", "env", "deployment/web", "COLOUR=red")
    assert "successfully rolled out" in old.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    old.kubectl("rollout", "undo", "deployment/web")
    assert "successfully rolled out" in old.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    history = old.kubectl("rollout", "history", "deployment/web")
    assert re.findall(r"^(\d+)", history, re.MULTILINE) == ["2", "3"]
    old.kubectl("autoscale", "deployment", "web", "--max=3", "--cpu-percent=80")
    assert "Deployment/web" in old.kubectl("get", "hpa")
    old.kubectl("delete", "hpa", "web")


def test_inside_pods(old: System, tmp_path: Path) -> None:
    old.kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=20s")
    assert "serving\n" in old.kubectl("logs", "deployment/web")
    assert old.kubectl("exec", "-i", "deployment/web", "--", "cat", stdin="through") == "through"
    assert old.run_kubectl("exec", "deployment/web", "--", "sh", "-c", "exit 3").returncode == 3
    pod = old.kubectl("get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "-o", "name").split()[0]
    name = pod.removeprefix("pod/")
    there = f"/tmp/{name}"  # which is the pod's own where it may be
    (tmp_path / "here").write_text("copied")
    old.kubectl("cp", str(tmp_path / "here"), f"{name}:{there}")
    old.kubectl("cp", f"{name}:{there}", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "copied"
    old.kubectl("exec", name, "--", "rm", there)
    forward = subprocess.Popen(
        [old.program, "port-forward", pod, ":8080"], env=old.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert forward.stdout is not None
        port = re.search(r"127\.0\.0\.1:(\d+) -> 8080", forward.stdout.readline())
        assert port
        assert urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/", timeout=10).status == 200
    finally:
        forward.kill()
        forward.communicate(timeout=10)
    # What a program says before somebody is attached is lost, so it is to answer.
    words = ["run", "asked", "--image=busybox", "--rm", "-i", "--restart=Never", "--", "cat"]
    said = old.kubectl(*words, stdin="hello\n")
    assert "hello\n" in said
