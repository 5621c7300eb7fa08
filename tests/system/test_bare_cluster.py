"""A cluster without an application: what tutorials say to type works, and what cannot work here says why."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.system.harness import System, until

MANIFESTS = Path(__file__).parent / "manifests"


def test_a_tutorial_applies_unchanged(bare: System) -> None:
    said = bare.kubectl("apply", "-f", str(MANIFESTS / "tutorial.yaml"))
    assert said.count("created") == 8
    again = bare.kubectl("apply", "-f", str(MANIFESTS / "tutorial.yaml"))
    # `stringData` is not stored, so kubectl sends it every time and says "configured", as everywhere
    assert again.count("unchanged") == 7
    assert "secret/web-secret configured" in again
    bare.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    until(
        lambda: "hello from the config" in _fetch(bare, "web.example.com"), 10, "the page is served through the Ingress"
    )
    assert (
        bare.kubectl("get", "crontabs.stable.example.com", check=False) == "No resources found in default namespace.\n"
    )


def _fetch(system: System, host: str) -> str:
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(system.url + "/", headers={"host": host})
        with urllib.request.urlopen(request, timeout=5) as reply:
            return str(reply.read().decode())
    except urllib.error.URLError:
        return ""


def test_an_image_that_cannot_run_here_says_what_to_do(bare: System) -> None:
    bare.kubectl("create", "deployment", "alien", "--image=example.com/alien:1.0")
    until(lambda: any(word in bare.kubectl("get", "pods") for word in ("ErrImagePull", "ImagePullBackOff")), 10, "seen")
    described = until(lambda: _described(bare, "Failed to pull image"), 10, "the event says why")
    assert 'image "example.com/alien:1.0"' in described
    assert "sampan" in described


def _described(system: System, expected: str) -> str:
    text = system.kubectl("describe", "pods", "-l", "app=alien")
    return text if expected in text else ""


def test_a_removed_version_is_refused_with_the_way_on(bare: System) -> None:
    manifest = MANIFESTS / "hpa-v2beta2.yaml"
    said = bare.kubectl("apply", "-f", str(manifest), check=False)
    assert 'no matches for kind "HorizontalPodAutoscaler" in version "autoscaling/v2beta2"' in said


@pytest.mark.timeout(200)
def test_the_autoscaler_follows_measured_cpu(bare: System) -> None:
    bare.kubectl("apply", "-f", str(MANIFESTS / "busy.yaml"))

    def replicas() -> int:
        return int(json.loads(bare.kubectl("get", "deployment", "busy", "-o", "json"))["spec"]["replicas"])

    until(lambda: replicas() >= 2, 60, "scaled up on measured CPU")
    bare.kubectl("set", "env", "deployment/busy", "WORK=no")
    until(lambda: replicas() == 1, 90, "scaled down again")


BAD = {
    "yaml": ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x\n", "error"),
    "type": ('{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":[1]}}', "data"),
    "unknown field": (
        '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dada":{}}',
        'unknown field "dada"',
    ),
    "name": ('{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"X_y"}}', "RFC 1123"),
    "selector": (
        '{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{"selector":{"matchLabels":{"a":"b"}},'
        '"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"busybox"}]}}}}',
        "does not match template `labels`",
    ),
}


def test_bad_input_is_refused_and_changes_nothing(bare: System) -> None:
    before = bare.kubectl("get", "all,configmaps", "-A", "-o", "name")
    for what, (text, expected) in BAD.items():
        said = bare.kubectl("apply", "-f", "-", stdin=text, check=False)
        assert expected in said, what
    assert bare.kubectl("get", "all,configmaps", "-A", "-o", "name") == before


def test_half_closed_and_oversized_requests_do_no_harm(bare: System) -> None:
    import ssl

    host, port = bare.info["server"].removeprefix("https://").split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sockets = []
    for _ in range(20):
        sock = context.wrap_socket(socket.create_connection((host, int(port))))
        sock.sendall(b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        sock.shutdown(socket.SHUT_WR)
        sockets.append(sock)
    assert "default" in bare.kubectl("get", "namespaces")
    for sock in sockets:
        sock.close()


def test_two_directories_have_two_clusters(bare: System, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = System(tmp_path_factory.mktemp("other"))
    try:
        other.sampan("up", "--detach")
        bare.kubectl("create", "configmap", "mine", "--from-literal=a=b")
        assert "mine" not in other.kubectl("get", "configmaps")
        assert bare.info["server"] != other.info["server"]
        assert bare.info["slice"] != other.info["slice"]
    finally:
        other.sampan("down", check=False)
    until(lambda: not other.processes(), 10, "the other cluster has ended")


def test_state_is_private_to_its_owner(bare: System) -> None:
    state = bare.directory / ".sampan"
    assert state.stat().st_mode & 0o077 == 0
    assert (state / "kubeconfig").stat().st_mode & 0o077 == 0


def test_a_new_project_comes_up(tmp_path: Path) -> None:
    System(tmp_path).sampan("init", "my-shop")
    system = System(tmp_path / "my-shop")
    try:
        system.sampan("up", "--detach")
        assert "Running" in system.kubectl("get", "pods", "-A")
    finally:
        system.sampan("down", check=False)
    until(lambda: not system.processes(), 10, "everything has ended")


def test_a_wrong_target_is_explained(tmp_path: Path) -> None:
    done = System(tmp_path).sampan("up", "nowhere", "--detach", check=False)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert not System(tmp_path).processes()
