"""The official Python client: typed and dynamic, its informer, its leader election, its streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes
import pytest
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.dynamic import DynamicClient
from kubernetes.informer import SharedInformer
from kubernetes.stream import portforward, stream

from tests.clients.conftest import GROUP, Harbour
from tests.system.harness import until

CANDIDATE = """
import sys, time
from kubernetes import config
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
config.load_kube_config()
def lead():
    print("leading", flush=True)
    time.sleep(1000)
lock = LeaseLock("boats", sys.argv[1], sys.argv[2])
leaderelection.LeaderElection(electionconfig.Config(
    lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=lead, onstopped_leading=None)).run()
"""


@pytest.fixture
def api(harbour: Harbour) -> Iterator[CoreV1Api]:
    with kubernetes.config.new_client_from_config(str(harbour.kubeconfig)) as made:
        yield CoreV1Api(made)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_objects_patches_and_pages(api: CoreV1Api, ns: str) -> None:
    for number in range(7):
        api.create_namespaced_config_map(ns, config_map(f"m{number}", a="1"))
    with pytest.raises(ApiException) as caught:
        api.create_namespaced_config_map(ns, config_map("m0"))
    assert (caught.value.status, json.loads(caught.value.body)["reason"]) == (409, "AlreadyExists")
    pages, token = [], None
    while token != "":
        page = api.list_namespaced_config_map(
            ns, limit=3, _continue=token, field_selector="metadata.name!=kube-root-ca.crt"
        )
        pages.append(len(page.items))
        token = page.metadata._continue or ""
    assert pages == [3, 3, 1]
    assert api.patch_namespaced_config_map("m0", ns, {"data": {"b": "2"}}).data == {"a": "1", "b": "2"}
    patch = [{"op": "remove", "path": "/data/a"}]
    assert api.patch_namespaced_config_map("m0", ns, patch, _content_type="application/json-patch+json").data == {
        "b": "2"
    }
    merge = {"data": {"b": None, "c": "3"}}
    assert api.patch_namespaced_config_map("m0", ns, merge, _content_type="application/merge-patch+json").data == {
        "c": "3"
    }
    found = api.read_namespaced_config_map("m0", ns)
    api.replace_namespaced_config_map("m0", ns, found)
    found.metadata.resource_version = "1"
    with pytest.raises(ApiException) as caught:
        api.replace_namespaced_config_map("m0", ns, found)
    assert caught.value.status == 409
    with pytest.raises(ApiException) as caught:
        api.create_namespaced_config_map(ns, config_map("Not A Name"))
    assert caught.value.status == 422
    api.delete_collection_namespaced_config_map(ns)
    until(lambda: not [m for m in api.list_namespaced_config_map(ns).items if m.metadata.name[0] == "m"], 20, "gone")


def test_apply_with_conflict(harbour: Harbour, ns: str) -> None:
    with kubernetes.config.new_client_from_config(str(harbour.kubeconfig)) as made:
        maps = DynamicClient(made).resources.get(api_version="v1", kind="ConfigMap")

        def apply(manager: str, **options: Any) -> Any:
            body = config_map("shared", owner=manager)
            return maps.server_side_apply(body=body, name="shared", namespace=ns, field_manager=manager, **options)

        apply("one")
        with pytest.raises(ApiException) as caught:
            apply("two")
        assert caught.value.status == 409 and "one" in caught.value.body
        assert apply("two", force_conflicts=True).data.owner == "two"
        managers = {row.manager for row in maps.get(name="shared", namespace=ns).metadata.managedFields}
        assert managers >= {"two"}


@pytest.mark.timeout(240)
def test_watch_survives_restart_and_410(harbour: Harbour, api: CoreV1Api, ns: str) -> None:
    """The client's own informer over two kills of the cluster, its history forgotten at the second."""
    informer = SharedInformer(api.list_namespaced_config_map, namespace=ns, label_selector="seen=yes")
    seen: list[tuple[str, str]] = []
    for kind in ("ADDED", "MODIFIED", "DELETED"):
        informer.add_event_handler(kind, lambda obj, kind=kind: seen.append((kind, obj.metadata.name)))

    def make(name: str) -> None:
        body = config_map(name, a="1")
        body["metadata"]["labels"] = {"seen": "yes"}
        api.create_namespaced_config_map(ns, body)

    informer.start()
    try:
        make("first")
        until(lambda: ("ADDED", "first") in seen, 20, "the first is seen")
        harbour.restart()
        make("second")
        until(lambda: ("ADDED", "second") in seen, 60, "the second is seen, after a restart")
        harbour.restart(compact=True)
        api.delete_namespaced_config_map("first", ns)
        make("third")
        names = {"second", "third"}
        until(
            lambda: {obj.metadata.name for obj in informer.cache.list()} == names, 60, "the cache is right after a 410"
        )
        api.patch_namespaced_config_map("third", ns, {"data": {"a": "2"}})
        until(lambda: ("MODIFIED", "third") in seen, 20, "and goes on")
    finally:
        informer.stop()


@pytest.mark.timeout(180)
def test_leader_election(harbour: Harbour, api: CoreV1Api, ns: str) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-u", "-c", CANDIDATE, ns, name],
            env=harbour.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for name in ("left", "right")
    ]  # fmt: skip
    leases = kubernetes.client.CoordinationV1Api(api.api_client)

    def holder() -> str:
        found = leases.list_namespaced_lease(ns).items
        return str(found[0].spec.holder_identity) if found else ""

    try:
        until(lambda: holder() in {"left", "right"}, 40, "one of them leads")
        first = holder()
        both[0 if first == "left" else 1].kill()
        until(lambda: holder() not in {"", first}, 60, "the other leads once the first is killed")
    finally:
        for one in both:
            one.kill()
            one.wait(10)


def test_exec_and_logs(api: CoreV1Api, pod: str) -> None:
    command = ["sh", "-c", "echo to-out; echo to-err >&2; cat; exit 3"]
    session = stream(
        api.connect_get_namespaced_pod_exec, pod, "default", container="talker", command=command,
        stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False,
    )  # fmt: skip
    session.write_stdin("typed\n")
    out, err = "", ""
    while "typed" not in out or "to-err" not in err:
        session.update(timeout=20)
        out += session.read_stdout(timeout=0.1) or ""
        err += session.read_stderr(timeout=0.1) or ""
    session.close()
    assert (out.split(), err.split()) == (["to-out", "typed"], ["to-err"])
    session = stream(
        api.connect_get_namespaced_pod_exec, pod, "default", container="talker", command=["sh", "-c", "exit 3"],
        stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False,
    )  # fmt: skip
    session.run_forever(timeout=20)
    assert session.returncode == 3
    with pytest.raises(Exception, match="is not valid for pod"):
        stream(api.connect_get_namespaced_pod_exec, pod, "default", container="nobody", command=["true"], stdout=True)
    text = api.read_namespaced_pod_log(pod, "default", container="talker", limit_bytes=14)
    assert len(text) == 14 and set(text.split()[:2]) <= {"out-1", "err-1", "tick"}, "two streams in any order"
    followed = kubernetes.watch.Watch()
    lines = followed.stream(api.read_namespaced_pod_log, pod, "default", container="talker", tail_lines=1, follow=True)
    numbers = [int(line.split()[1]) for line, _ in zip(lines, range(3), strict=False)]
    followed.stop()
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_port_forward(api: CoreV1Api, pod: str) -> None:
    forward = portforward(api.connect_get_namespaced_pod_portforward, pod, "default", ports="8080")
    sock = forward.socket(8080)
    sock.setblocking(True)
    sock.sendall(b"GET /boat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = b""
    while data := sock.recv(65536):
        answer += data
    sock.close()
    assert answer.startswith(b"HTTP/1.0 200") and answer.endswith(b"/boat" * 10) and len(answer) > 10_000
    assert forward.error(8080) is None


def test_custom_objects_and_finalizers(harbour: Harbour, api: CoreV1Api, boats: None, ns: str) -> None:
    custom = kubernetes.client.CustomObjectsApi(api.api_client)
    where = (GROUP, "v1", ns, "boats")
    boat = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Boat",
        "metadata": {"name": "ida", "finalizers": [f"{GROUP}/x"]},
        "spec": {},
    }
    made = custom.create_namespaced_custom_object(*where, boat)
    assert made["spec"] == {"size": 1, "image": "busybox"}, "defaults of its schema"
    with pytest.raises(ApiException) as caught:
        custom.patch_namespaced_custom_object(*where, "ida", {"spec": {"size": 99}})
    assert caught.value.status == 422
    custom.patch_namespaced_custom_object_status(*where, "ida", {"status": {"ready": 1}, "spec": {"size": 5}})
    found = custom.get_namespaced_custom_object(*where, "ida")
    assert (found["status"], found["spec"]["size"], found["metadata"]["generation"]) == ({"ready": 1}, 1, 1)
    custom.delete_namespaced_custom_object(*where, "ida")
    found = custom.get_namespaced_custom_object(*where, "ida")
    assert found["metadata"]["deletionTimestamp"]
    custom.patch_namespaced_custom_object(*where, "ida", {"metadata": {"finalizers": []}})
    with pytest.raises(ApiException) as caught:
        custom.get_namespaced_custom_object(*where, "ida")
    assert caught.value.status == 404


def test_events(api: CoreV1Api, pod: str, ns: str) -> None:
    events = kubernetes.client.EventsV1Api(api.api_client)
    regarding = {"apiVersion": "v1", "kind": "Pod", "name": pod, "namespace": ns}
    events.create_namespaced_event(
        ns,
        {
            "metadata": {"generateName": "boat."}, "eventTime": "2026-01-01T00:00:00.000001Z", "type": "Normal",
            "reason": "Moored", "action": "Moor", "note": "fast", "regarding": regarding,
            "reportingController": f"{GROUP}/tests", "reportingInstance": "t",
        },
    )  # fmt: skip
    (found,) = api.list_namespaced_event(ns, field_selector=f"involvedObject.name={pod}").items
    assert (found.reason, found.message) == ("Moored", "fast")
    reasons = {
        row.reason for row in api.list_namespaced_event("default", field_selector=f"involvedObject.name={pod}").items
    }
    assert {"Scheduled", "Started"} <= reasons
