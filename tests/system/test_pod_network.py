"""`--network pods`: each pod has a network of its own, NetworkPolicies hold, and nothing of it is left behind.

By root and by an ordinary user, with real programs: kubectl, curl, the shop.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import ROOT, System, until
from tests.system.test_ordinary_user import UserSystem, free_uid

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: python
        command: [sh, -c, "mkdir /tmp/w && cd /tmp/w && hostname > index.html && exec python -m http.server 8000"]
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: 8000}, periodSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8000}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: far, labels: {distance: far}}
"""
CLIENT = "apiVersion: v1\nkind: Pod\nmetadata: {{name: {0}, namespace: {1}, labels: {{app: {0}}}}}\nspec:\n"
CLIENT += "  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: busybox, command: [sleep, '1000']}}]\n"


def supported() -> str:
    """Why this machine gives pods no network of their own; empty if it does."""
    from sampan.cluster.kubelet.zygote import Zygote
    from sampan.cluster.network.pods import PodNetwork, Refused

    zygote = Zygote.start(("msgspec",))
    try:
        PodNetwork(64, zygote.router(64)).close()
    except Refused as error:
        return str(error)
    finally:
        zygote.stop()
    return ""


def make(user: str) -> System:
    directory = Path(tempfile.mkdtemp(prefix="sampan-net-", dir="/var/tmp"))
    if user == "root":
        return System(directory)
    system = UserSystem(directory, free_uid())
    (directory / "home").mkdir()
    for path in (directory, directory / "home"):
        os.chown(path, system.uid, system.uid)
    directory.chmod(0o755)
    return system


def traces(system: System) -> list[str]:
    """What the cluster has on the machine outside its directory: control groups and mounts. (Links: see `running`.)"""
    name = hashlib.sha256(os.fsencode(system.directory / ".sampan")).hexdigest()[:12]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/sampan-*{name}")] + [
        line for line in mounts if str(system.directory) in line
    ]


@contextlib.contextmanager
def running(user: str) -> Iterator[System]:
    """A cluster with the objects above, two clients, and pods with networks of their own; in the end it is killed."""
    if reason := supported():
        pytest.skip(f"this system gives pods no network of their own: {reason}")
    if os.geteuid() != 0:
        pytest.skip("needs root, to become an ordinary user and to see what is left")
    if not shutil.which("kubectl") or not shutil.which("curl"):
        pytest.skip("kubectl or curl is not on this machine")
    before = {name for _, name in socket.if_nameindex()}
    made = make(user)
    try:
        made.sampan("cluster", "--detach", "--network", "pods")
        objects = [WEB, CLIENT.format("near", "default"), CLIENT.format("away", "far")]
        made.kubectl("apply", "-f", "-", stdin="---\n".join(objects))
        made.kubectl("wait", "pod", "-A", "--all", "--for=condition=Ready", "--timeout=30s")
        made.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
        yield made
        assert {name for _, name in socket.if_nameindex()} == before
        made.kill_cluster()
        until(lambda: not made.processes(), 15, "every process has ended")
        until(lambda: not traces(made), 15, "no trace is left")
    finally:
        made.sampan("down", check=False)
        shutil.rmtree(made.directory)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("root") as made:
        yield made


def ask_all(system: System, pod: str, urls: list[str], namespace: str = "default") -> list[str]:
    """What curl gets in a pod, by URL; "refused" if it is, else its exit code."""
    script = "; ".join(f"curl -sS --max-time 5 {url} 2>/dev/null; echo =$?" for url in urls)
    said = system.kubectl("exec", "-n", namespace, pod, "--", "sh", "-c", script)
    answers = [part.rpartition("=") for part in re.findall(r"(?s)(.*?=\d+)\n", said)]
    return [{"0": body.strip(), "7": "refused"}.get(code, f"curl {code}") for body, _, code in answers]


def ask(system: System, pod: str, url: str, namespace: str = "default") -> str:
    (answer,) = ask_all(system, pod, [url], namespace)
    return answer


def pods(system: System) -> list[dict[str, Any]]:
    return system.objects("pods", "-l", "app=web")


def test_programs_share_a_port_and_are_reached_every_way(system: System) -> None:
    names = {pod["metadata"]["name"] for pod in pods(system)}
    addresses = {pod["status"]["podIP"]: pod["metadata"]["name"] for pod in pods(system)}
    assert all(ip.startswith("10.") for ip in addresses)
    said = ask_all(system, "near", [f"http://{ip}:8000/" for ip in addresses])
    assert said == list(addresses.values())
    by_name = ["http://web/", "http://web.default.svc.cluster.local/", "http://each:8000/"]
    own, version = "http://127.0.0.1:8000/", "-k https://kubernetes.default/version"
    *named, loopback, api = ask_all(system, "near", [*by_name, own, version])
    assert set(named) <= names
    assert loopback == "refused"  # that of a pod is its own
    assert '"gitVersion"' in api
    assert ask(system, "away", "http://web.default/", "far") in names
    service = json.loads(system.kubectl("get", "service", "web", "-o", "json"))["spec"]
    port = service["ports"][0]["nodePort"]
    for url in (system.url, f"http://127.0.0.1:{port}"):
        with urllib.request.urlopen(url, timeout=5) as reply:
            assert reply.read().decode().strip() in names
    events = system.kubectl("get", "events", "-A", "-o", "jsonpath={.items[*].reason}")
    host = f"http://{service['clusterIP']}:{10080 if 'PortNotBindable' in events else 80}/"
    with urllib.request.urlopen(host, timeout=5) as reply:
        assert reply.read().decode().strip() in names


def test_port_forward_reaches_what_listens_on_the_pods_loopback(system: System) -> None:
    serve = "cd /tmp/w && python -m http.server --bind 127.0.0.1 8123 >/dev/null 2>&1 &"
    name = pods(system)[0]["metadata"]["name"]
    system.kubectl("exec", name, "--", "sh", "-c", serve)
    with subprocess.Popen(
        ["kubectl", "port-forward", f"pod/{name}", ":8123"], env=system.environment, stdout=subprocess.PIPE, text=True
    ) as forward:
        try:
            assert forward.stdout is not None
            port = forward.stdout.readline().split("->")[0].rpartition(":")[2].strip()

            def page() -> str:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
                        return str(reply.read().decode().strip())
                except OSError:
                    return ""

            assert until(page, 10, "the page is there") == name
        finally:
            forward.terminate()


def test_a_pod_of_the_host_network_uses_services_and_is_behind_one(system: System) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = {
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "python", "command": ["python", "-m", "http.server", str(port)]}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "host", "labels": {"app": "host"}}, "spec": spec}
    ports = [{"port": 81, "targetPort": port}]
    service: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "host"}}
    service["spec"] = {"selector": {"app": "host"}, "ports": ports}
    try:
        system.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [pod, service]})
        )
        until(lambda: "Directory listing" in ask(system, "near", "http://host:81/"), 15, "the host's pod answers")
        said = system.kubectl("get", "pod", "host", "-o", "jsonpath={.status.podIP}")
        assert said.startswith("127.")
    finally:
        system.kubectl("delete", "pod,service", "host", "--now", check=False)


@pytest.fixture
def policy(system: System) -> Iterator[Any]:
    """Puts policies in force; they are gone afterwards."""

    def put(name: str, spec: dict[str, Any], namespace: str = "default") -> None:
        metadata = {"name": name, "namespace": namespace}
        body = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
        system.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    yield put
    system.kubectl("delete", "networkpolicy", "-A", "--all")


def test_policies_hold_for_pods_and_services(system: System, policy: Any) -> None:
    web, direct = "http://web.default/", f"http://{pods(system)[0]['status']['podIP']}:8000/"

    def said() -> list[bool]:
        answers = [
            ask(system, pod, url, home) for pod, home in (("near", "default"), ("away", "far")) for url in (web, direct)
        ]
        assert all(answer == "refused" or answer.startswith("web-") for answer in answers), answers
        return [answer != "refused" for answer in answers]

    assert said() == [True] * 4
    chosen = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}
    policy("web", chosen)
    assert said() == [False] * 4
    with urllib.request.urlopen(system.url, timeout=5) as reply:  # the Ingress is the node's
        assert reply.status == 200
    near = {"podSelector": {"matchLabels": {"app": "near"}}}
    policy("web", {**chosen, "ingress": [{"from": [near], "ports": [{"port": "http"}]}]})
    assert said() == [True, True, False, False]
    policy("web", {**chosen, "ingress": [{"from": [near], "ports": [{"port": 8001, "endPort": 9000}]}]})
    assert said() == [False] * 4
    far = {"namespaceSelector": {"matchLabels": {"distance": "far"}}}
    policy("web", {**chosen, "ingress": [{"from": [far]}]})
    assert said() == [False, False, True, True]
    system.kubectl("label", "namespace", "far", "distance-")
    assert said() == [False] * 4
    system.kubectl("label", "namespace", "far", "distance=far")
    address = pods(system)[0]["status"]["podIP"]
    out: list[dict[str, Any]] = [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"{address}/32"]}}]}]
    policy("quiet", {"podSelector": {}, "policyTypes": ["Egress"], "egress": out}, "far")
    assert said() == [False] * 4  # the Service too: one pod behind it is out of reach
    out = [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 8000}]}]
    policy("quiet", {"podSelector": {}, "policyTypes": ["Egress"], "egress": out}, "far")
    assert said() == [False, False, True, True]


def test_what_leaves_the_cluster_obeys_too(system: System, policy: Any) -> None:
    port = int(system.info["server"].rpartition(":")[2])
    url = f"-k https://10.{system.info['slice']}.0.1:{port}/version"
    assert "gitVersion" in ask(system, "near", url)
    policy("closed", {"podSelector": {"matchLabels": {"app": "near"}}, "policyTypes": ["Egress"]})
    assert ask(system, "near", url) == "refused"


def test_an_open_connection_outlives_a_policy(system: System, policy: Any) -> None:
    script = (
        "import http.client, sys\n"
        "held = http.client.HTTPConnection('web.default', 80, timeout=10)\n"
        "def get(): held.request('GET', '/'); print(held.getresponse().read().decode().strip(), flush=True)\n"
        "get(); sys.stdin.readline(); get()\n"
    )
    command = ["kubectl", "exec", "-i", "near", "--", "python3", "-c", script]
    with subprocess.Popen(
        command, env=system.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as held:
        assert held.stdin is not None
        assert held.stdout is not None
        assert held.stdout.readline().startswith("web-")
        policy("web", {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})
        assert ask(system, "near", "http://web.default/") == "refused"
        held.stdin.write("\n")
        held.stdin.flush()
        assert held.stdout.readline().startswith("web-")


def test_status_says_what_is_in_force(system: System) -> None:
    found = json.loads(system.sampan("status", "--json").stdout)
    assert found["network"]["mode"] == "pods"
    assert any("UDP" in line for line in found["network"]["cannot"])
    text = system.sampan("status").stdout
    assert "network: pods" in text
    assert found["limits"] in text


def test_a_killed_router_or_envoy_is_no_dead_end(system: System) -> None:
    """Envoy comes back with its listeners on the machine."""
    (envoy,) = [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if _command(path).startswith(b"envoy") or b"/envoy\0--config-path" in _command(path)
        if Path(path, "cwd").exists() and str(Path(path, "cwd").readlink()).startswith(str(system.directory))
    ]
    os.kill(envoy, signal.SIGKILL)

    def back() -> bool:
        try:
            with urllib.request.urlopen(system.url, timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    until(back, 15, "the Ingress answers again")
    assert ask(system, "near", "http://web/").startswith("web-")


def _command(path: Path) -> bytes:
    try:
        return (path / "cmdline").read_bytes()
    except OSError:
        return b""


def test_an_ordinary_user_has_all_of_it() -> None:
    with running("user") as mine:
        web, direct = "http://web.default/", f"http://{pods(mine)[0]['status']['podIP']}:8000/"
        assert all(answer.startswith("web-") for answer in ask_all(mine, "near", [web, direct]))
        with urllib.request.urlopen(mine.url, timeout=5) as reply:
            assert reply.status == 200
        metadata, chosen = {"name": "web", "namespace": "default"}, {"podSelector": {}, "policyTypes": ["Ingress"]}
        body = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": chosen}
        mine.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        assert ask_all(mine, "near", [web, direct]) == ["refused"] * 2


@pytest.fixture(scope="module")
def shop() -> Iterator[System]:
    if reason := supported():
        pytest.skip(f"this system gives pods no network of their own: {reason}")
    made = make("root")
    try:
        made.sampan("up", str(ROOT / "examples/shop"), "--detach", "--network", "pods")
        yield made
    finally:
        made.sampan("down", check=False)
        until(lambda: not made.processes(), 15, "every process of the shop has ended")
        shutil.rmtree(made.directory)


def test_the_shop_works_behind_its_own_policies(shop: System) -> None:
    order = shop.post("/api/orders", {"user_id": 1, "lines": [{"product_id": 1, "quantity": 1}]})["id"]
    until(lambda: shop.get(f"/api/orders/{order}")["status"] == "confirmed", 15, "the order is confirmed")
    denied = shop.objects("networkpolicies", "-n", "shop")
    assert any(item["metadata"]["name"] == "default-deny" for item in denied)

    def connects(app: str, host: str, port: int) -> str:
        pod = shop.objects("pods", "-n", "shop", "-l", f"app.kubernetes.io/name={app}")[0]["metadata"]["name"]
        script = f"import socket; socket.create_connection(({host!r}, {port}), 5); print('connected')"
        command = ["exec", "-n", "shop", pod, "--", "python", "-c", script]
        said = shop.kubectl(*command, check=False)
        # a traceback may show the script, and with it what it would have said
        connected, refused = said.split() == ["connected"], "ConnectionRefusedError" in said
        assert connected != refused, said
        return "connected" if connected else "refused"

    users = shop.objects("pods", "-n", "shop", "-l", "app.kubernetes.io/name=users-db")[0]["status"]["podIP"]
    assert connects("users", users, 3306) == "connected"
    assert connects("users", "users-db", 3306) == "connected"
    assert connects("payments", users, 3306) == "refused"  # only who uses a database reaches it
    assert connects("payments", "users-db", 3306) == "refused"
    assert connects("users-db", "messaging", 4222) == "refused"  # and it reaches nobody


def test_two_clusters_side_by_side(shop: System) -> None:
    second = make("root")
    try:
        second.sampan("cluster", "--detach", "--network", "pods")
        assert second.info["slice"] != shop.info["slice"]
        second.kubectl("run", "one", "--image=busybox", "--", "sleep", "100")
        second.kubectl("wait", "pod/one", "--for=condition=Ready", "--timeout=20s")
        assert shop.get("/api/products")
    finally:
        second.sampan("down", "--delete", check=False)
        shutil.rmtree(second.directory)
