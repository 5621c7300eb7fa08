"""A kernel that refuses the rules of policies: no program starts unprotected; the pod waits, hears why, and starts once
the rules are in force.

Another socket owns the table in the router's namespace (NFT_TABLE_F_OWNER): the kernel itself refuses the cluster's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.cluster.kubelet import linux
from sampan.cluster.kubelet.supervisor import descendants
from sampan.cluster.network.netlink import NETFILTER, Netlink, attribute, message, text
from sampan.cluster.network.rules import TABLE
from tests.system.harness import System, until
from tests.system.test_pod_network import CLIENT, make, supported

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""
NEW, DELETE, BEGIN, END, SUBSYSTEM, OWNED = 0, 2, 16, 17, 10, 2


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to enter the router's namespace")
    if reason := supported():
        pytest.skip(f"this system gives pods no network of their own: {reason}")
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not on this machine")
    made = make("root")
    try:
        made.sampan("cluster", "--detach", "--network", "pods")
        yield made
    finally:
        made.sampan("down", check=False)
        until(lambda: not made.processes(), 15, "every process has ended")
        shutil.rmtree(made.directory)


def members(system: System) -> list[int]:
    """The cluster's process and all below it."""
    pid = int(system.info["pid"])
    return [pid, *descendants(pid)]


def router(system: System) -> int:
    (found,) = (pid for pid in members(system) if Path(f"/proc/{pid}/comm").read_text() == "sampan-router\n")
    return found


def take(namespace: Path) -> Netlink:
    """Own the cluster's table there, empty, as long as the socket is open."""
    descriptor = os.open(namespace, os.O_RDONLY)
    made: list[Netlink] = []

    def enter() -> None:
        linux.set_namespace(descriptor, linux.CLONE_NEWNET)
        made.append(Netlink(NETFILTER))

    thread = threading.Thread(target=enter)  # which stays in there, so it is no thread of a pool
    thread.start()
    thread.join()
    os.close(descriptor)
    name, edge, head = text(1, TABLE), struct.pack("!BBH", 0, 0, SUBSYSTEM), struct.pack("!BBH", 2, 0, 0)
    steps = [
        (NEW, 0x401, name),
        (DELETE, 1, name),
        (NEW, 0x405, name + attribute(2, struct.pack("!I", OWNED))),
    ]
    batch = [message(BEGIN, 1, 1, edge)]
    for number, (kind, flags, attributes) in enumerate(steps, 2):
        batch.append(message(SUBSYSTEM << 8 | kind, flags, number, head + attributes))
    batch.append(message(END, 1, 5, edge))
    made[0].socket.send(b"".join(batch))
    made[0].confirm(4, {1: "nf_tables", 2: "table", 3: "table", 4: "a table with an owner"})
    return made[0]


def told(system: System, kind: str, name: str) -> str:
    chosen = f"involvedObject.kind={kind},involvedObject.name={name}"
    return system.kubectl("get", "events", f"--field-selector={chosen}", "-o", "jsonpath={.items[*].message}")


def test_a_pod_waits_until_its_rules_are_in_force(system: System) -> None:
    system.kubectl("apply", "-f", "-", stdin=CLIENT.format("early", "default"))
    system.kubectl("wait", "pod/early", "--for=condition=Ready", "--timeout=60s")
    with contextlib.closing(take(Path(f"/proc/{router(system)}/ns/net"))):
        system.kubectl("apply", "-f", "-", stdin=f"{POLICY}---\n{CLIENT.format('late', 'default')}")
        until(
            lambda: "rules of NetworkPolicies could not be put in" in told(system, "Pod", "late"), 15, "the pod hears"
        )
        until(lambda: "Operation not permitted" in told(system, "NetworkPolicy", "closed"), 15, "the policy hears")
        reasons = system.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
        assert "FailedCreatePodSandBox" in reasons
        assert "NotEnforced" in reasons
        named = "--field-selector=metadata.name=late"
        status = until(lambda: system.objects("pods", named)[0]["status"].get("containerStatuses"), 15, "it is told")
        assert status[0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    system.kubectl("wait", "pod/late", "--for=condition=Ready", "--timeout=60s")
    system.kubectl("delete", "pod/early", "pod/late", "networkpolicy/closed", "--now")


def test_a_pod_deleted_while_it_waits_goes_and_leaves_nothing(system: System) -> None:
    before = _descriptors(system)
    with contextlib.closing(take(Path(f"/proc/{router(system)}/ns/net"))):
        system.kubectl("apply", "-f", "-", stdin=f"{POLICY}---\n{CLIENT.format('never', 'default')}")
        until(lambda: "could not be put in" in told(system, "Pod", "never"), 15, "the pod hears")
        system.kubectl("delete", "pod/never", "--timeout=30s")
    until(lambda: _descriptors(system) <= before, 15, "its namespace is given back")


def test_a_router_that_has_ended_is_said_and_mended_by_a_new_start(system: System) -> None:
    os.kill(router(system), signal.SIGKILL)
    system.kubectl("apply", "-f", "-", stdin=CLIENT.format("orphan", "default"))
    until(lambda: "a new start of the cluster" in told(system, "Pod", "orphan"), 15, "the pod hears")
    assert system.objects("pods")[0]["status"]["phase"] == "Pending"
    system.sampan("down")
    system.sampan("cluster", "--detach")
    system.kubectl("wait", "pod/orphan", "--for=condition=Ready", "--timeout=30s")


def _descriptors(system: System) -> int:
    """Network namespaces that the cluster's processes hold."""
    held = (one for pid in members(system) for one in Path(f"/proc/{pid}/fd").iterdir())
    return sum("net:[" in _target(one) for one in held)


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
