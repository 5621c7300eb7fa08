"""Pods run: environment, logs, volumes, probes, restarts, an orderly end."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.kube import kinds
from sampan.kube.errors import ApiError

pytestmark = pytest.mark.usefixtures("node")


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", script], **more}


async def test_a_pod_runs_logs_and_is_deleted(node: Any) -> None:
    await node.pod(
        "web", shell("echo hello $NAME on $SAMPAN_POD_IP; sleep 100", env=[{"name": "NAME", "value": "Ann"}])
    )
    await node.until(lambda: node.ready("web"))
    status = node.get("web")["status"]
    assert status["phase"] == "Running"
    assert status["podIP"].startswith(node.prefix)
    assert status["qosClass"] == "BestEffort"
    await node.says("web", f"hello Ann on {status['podIP']}")
    await node.client.delete(kinds.POD, "web", "default")
    await node.until(lambda: not node.get("web"))
    await node.until(lambda: list((node.directory / "pods").iterdir()) == [])


async def test_a_pod_that_ends_succeeds_or_fails_by_its_policy(node: Any) -> None:
    await node.pod("good", shell("exit 0"), restartPolicy="Never")
    await node.pod(
        "bad", shell("echo broken; exit 3", terminationMessagePolicy="FallbackToLogsOnError"), restartPolicy="Never"
    )
    await node.until(
        lambda: node.get("good")["status"].get("phase") == "Succeeded" if node.get("good").get("status") else 0
    )
    await node.until(lambda: (node.get("bad").get("status") or {}).get("phase") == "Failed")
    ended = node.state("bad")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "broken")


async def test_a_crashing_container_restarts_at_once_then_backs_off(node: Any) -> None:
    await node.pod("crash", shell("echo run; exit 1"))
    await node.until(
        lambda: (node.state("crash").get("state") or {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
    )
    status = node.state("crash")
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert "back-off 10s" in status["state"]["waiting"]["message"]
    assert "run" in await node.text("crash", previous=True)


async def test_volumes_appear_and_follow_their_sources(node: Any) -> None:
    await node.add(
        kinds.CONFIG_MAP, {"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": {"a": "1"}}
    )
    await node.add(
        kinds.SECRET, {"kind": "Secret", "metadata": {"name": "s", "namespace": "default"}, "data": {"k": "c2Vj"}}
    )
    volumes = [
        {"name": "config", "configMap": {"name": "c"}},
        {
            "name": "secret",
            "secret": {"secretName": "s", "items": [{"key": "k", "path": "sub/key"}], "defaultMode": 0o400},
        },
        {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "empty", "emptyDir": {"medium": "Memory"}},
        {"name": "all", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}},
    ]
    mounts = [
        {"name": "config", "mountPath": "/nowhere/config"},
        {"name": "secret", "mountPath": "/usr/share/never/secret"},
        {"name": "info", "mountPath": "/info"},
        {"name": "empty", "mountPath": "/scratch"},
        {"name": "all", "mountPath": "/all"},
        {"name": "config", "mountPath": "/one/file", "subPath": "a"},
    ]
    script = """
      cat /nowhere/config/a /usr/share/never/secret/sub/key /info/labels /all/a /all/k /one/file; echo
      echo x > /nowhere/config/b || echo read-only; touch /scratch/t && echo written
      while [ "$(cat /nowhere/config/a)" = 1 ]; do sleep 0.05; done; echo now $(cat /nowhere/config/a); sleep 100
    """
    await node.pod("vol", shell(script, volumeMounts=mounts), volumes=volumes)
    await node.says("vol", '1secapp="vol"1sec1')
    await node.says("vol", "read-only")
    await node.says("vol", "written")
    await node.client.patch(kinds.CONFIG_MAP, "c", "default", {"data": {"a": "2"}})
    await node.says("vol", "now 2")
    assert not Path("/nowhere").exists()
    assert not Path("/usr/share/never").exists()


async def test_a_volume_over_the_images_directory_leaves_it_visible(node: Any, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("mine")
    (node.directory / "images").mkdir()
    image = {"image": "own", "entrypoint": ["sh"], "directory": str(project)}
    (node.directory / "images" / "own.json").write_text(json.dumps(image))
    container: dict[str, Any] = {"image": "own", "args": ["-c", "cat file; ls /tmp; sleep 100"]}
    container["volumeMounts"] = [{"name": "t", "mountPath": "/tmp"}]
    await node.pod("own", container, volumes=[{"name": "t", "emptyDir": {}}])
    await node.says("own", "mine")
    assert node.directory.name not in await node.text("own")  # the rest of the host's /tmp is covered


async def test_a_missing_config_map_is_waited_for(node: Any) -> None:
    volumes = [{"name": "v", "configMap": {"name": "late"}}]
    await node.pod(
        "wait", shell("cat /v/x; sleep 100", volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=volumes
    )
    await node.until(lambda: "FailedMount" in node.events())
    await node.add(
        kinds.CONFIG_MAP,
        {"kind": "ConfigMap", "metadata": {"name": "late", "namespace": "default"}, "data": {"x": "here"}},
    )
    await node.until(lambda: node.ready("wait"))


async def test_service_names_resolve(node: Any) -> None:
    service = {
        "kind": "Service",
        "metadata": {"name": "users", "namespace": "default"},
        "spec": {"clusterIP": f"{node.prefix}.128.7"},
    }
    await node.add(kinds.SERVICE, service)
    await node.pod(
        "names",
        shell("getent hosts users users.default.svc; while ! getent hosts late; do sleep 0.05; done; sleep 100"),
    )
    await node.says("names", f"{node.prefix}.128.7")
    await node.add(
        kinds.SERVICE,
        {
            **service,
            "metadata": {"name": "late", "namespace": "default"},
            "spec": {"clusterIP": f"{node.prefix}.128.8"},
        },
    )
    await node.says("names", f"{node.prefix}.128.8")


async def test_init_containers_run_in_order_and_a_sidecar_stays(node: Any) -> None:
    volumes = [{"name": "w", "emptyDir": {}}]
    mount = [{"name": "w", "mountPath": "/w"}]
    inits = [
        {"name": "one", "image": "busybox", **shell("echo 1 >> /w/log", volumeMounts=mount)},
        {
            "name": "side",
            "image": "busybox",
            "restartPolicy": "Always",
            **shell("echo side >> /w/log; exec sleep 100", volumeMounts=mount),
        },
        {"name": "two", "image": "busybox", **shell("sleep 0.1; echo 2 >> /w/log", volumeMounts=mount)},
    ]
    await node.pod(
        "init", shell("cat /w/log", volumeMounts=mount), initContainers=inits, volumes=volumes, restartPolicy="Never"
    )
    await node.until(lambda: (node.get("init").get("status") or {}).get("phase") == "Succeeded")
    assert (await node.text("init", container="main")).split() == ["1", "side", "2"]


async def test_probes_make_ready_and_restart(node: Any) -> None:
    probe = {"httpGet": {"port": "http", "path": "/ok"}, "periodSeconds": 1, "failureThreshold": 1}
    program = (
        "import http.server, os, time\n"
        "time.sleep(0.3)\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if not os.path.exists('/w/bad') else 500); self.end_headers()\n"
        "http.server.HTTPServer(('0.0.0.0', 8080), H).serve_forever()\n"
    )
    container = {
        "image": "python:3.11",
        "command": ["python", "-c", program],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": probe,
        "livenessProbe": probe,
        "volumeMounts": [{"name": "w", "mountPath": "/w"}],
    }
    for name in ("a", "b"):  # both listen on 8080 of "every" address
        await node.pod(name, container, volumes=[{"name": "w", "emptyDir": {}}], terminationGracePeriodSeconds=1)
    await node.until(lambda: node.ready("a") and node.ready("b"))
    assert node.state("a")["restartCount"] == 0
    (node.directory / "pods" / node.get("a")["metadata"]["uid"] / "volumes" / "w" / "bad").touch()
    await node.until(lambda: not node.ready("a"))
    await node.until(lambda: node.state("a")["restartCount"] == 1)


async def test_an_unknown_image_says_what_to_do(node: Any) -> None:
    await node.pod("odd", {"image": "shop/never:1"})
    await node.until(lambda: node.state("odd").get("state", {}).get("waiting", {}).get("reason") == "ErrImagePull")
    assert "Known images: " in node.state("odd")["state"]["waiting"]["message"]
    (node.directory / "images").mkdir()
    (node.directory / "images" / "x.json").write_text('{"image": "shop/never:1", "entrypoint": ["sleep", "100"]}')
    await node.until(lambda: node.ready("odd"))


async def test_the_end_is_orderly(node: Any) -> None:
    drained: list[float] = []
    seen: list[bool] = []

    async def drain(pod: Any) -> None:
        seen.append(node.ready("end"))
        await asyncio.sleep(0.1)
        drained.append(time.monotonic())

    node.kubelet._services.drained = drain
    mark = node.directory / "mark"
    script = f"trap 'echo term >> {mark}; exit 5' TERM; echo up; while :; do sleep 0.02; done"
    lifecycle = {"preStop": {"exec": {"command": ["sh", "-c", f"echo prestop >> {mark}"]}}}
    here = [{"name": "here", "hostPath": {"path": str(node.directory)}}]
    mounted = [{"name": "here", "mountPath": str(node.directory)}]
    await node.pod("end", shell(script, lifecycle=lifecycle, volumeMounts=mounted), volumes=here)
    await node.says("end", "up")
    await node.until(lambda: node.ready("end"))
    await node.client.delete(kinds.POD, "end", "default")
    await node.until(lambda: not node.get("end"))
    assert seen == [False]
    assert drained
    assert mark.read_text().split() == ["prestop", "term"]


async def test_grace_ends_in_a_kill(node: Any) -> None:
    await node.pod(
        "deaf", shell("trap '' TERM; echo up; while :; do sleep 0.05; done"), terminationGracePeriodSeconds=1
    )
    await node.says("deaf", "up")
    began = time.monotonic()
    await node.client.delete(kinds.POD, "deaf", "default")
    await node.until(lambda: not node.get("deaf"))
    assert 0.9 < time.monotonic() - began < 3


async def test_environment_from_everywhere(node: Any) -> None:
    await node.add(
        kinds.CONFIG_MAP, {"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": {"A": "1"}}
    )
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        {"name": "BOTH", "value": "$(P_A)-$(IP)-$$(A)-$(NONE)"},
        {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": True}}},
    ]
    container = shell(
        'echo "$BOTH $CPU [$MAYBE] $0"', env=env, envFrom=[{"prefix": "P_", "configMapRef": {"name": "c"}}]
    )
    container["resources"] = {"limits": {"cpu": "250m"}}
    container["command"] += ["$(P_A)"]
    await node.pod("env", container, restartPolicy="Never")
    await node.until(lambda: (node.get("env").get("status") or {}).get("phase") == "Succeeded")
    assert (await node.text("env")).strip() == f"1-{node.get('env')['status']['podIP']}-$(A)-$(NONE) 250 [] 1"


async def test_a_deadline_fails_the_pod(node: Any) -> None:
    await node.pod("slow", shell("sleep 100"), activeDeadlineSeconds=1, restartPolicy="Never")
    await node.until(lambda: (node.get("slow").get("status") or {}).get("phase") == "Failed")
    assert node.get("slow")["status"]["reason"] == "DeadlineExceeded"


async def test_memory_over_the_limit_is_oom_killed(node: Any) -> None:
    program = "import time; x = bytearray(80_000_000); x[::4096] = b'1' * len(x[::4096]); time.sleep(100)"
    container = {"image": "python", "command": ["python", "-c", program], "resources": {"limits": {"memory": "50Mi"}}}
    await node.pod("fat", container, restartPolicy="Never")
    await node.until(lambda: (node.get("fat").get("status") or {}).get("phase") == "Failed", 15)
    assert node.state("fat")["state"]["terminated"]["reason"] == "OOMKilled"


async def test_logs_of_a_pod_that_is_not_there(node: Any) -> None:
    with pytest.raises(ApiError) as raised:
        await node.text("none")
    assert raised.value.code == 404


async def test_a_restarted_kubelet_continues_the_same_pod(node: Any, zygote: Any) -> None:
    from sampan.cluster.kubelet.kubelet import Kubelet

    await node.pod("stay", shell("echo run; sleep 100"))
    await node.until(lambda: node.ready("stay"))
    ip = node.get("stay")["status"]["podIP"]
    await node.kubelet.stop()
    second = Kubelet(node.client, node.directory, node.prefix, zygote)
    await second.start()
    try:
        await node.until(lambda: node.state("stay")["restartCount"] == 1 and node.ready("stay"))
        assert node.get("stay")["status"]["podIP"] == ip
    finally:
        await second.stop()


async def test_nothing_is_left_behind(node: Any) -> None:
    await node.pod("bg", shell("sleep 12345 & sleep 12345 & echo up; wait"))
    await node.says("bg", "up")
    await node.client.delete(kinds.POD, "bg", "default")
    await node.until(lambda: not node.get("bg"))
    commands = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and os.access(entry / "cmdline", os.R_OK):
            try:
                commands.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    assert not any(b"12345" in command for command in commands)
