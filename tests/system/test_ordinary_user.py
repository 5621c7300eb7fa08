"""The shop run by an ordinary user: its own namespaces inside a user namespace, no privilege anywhere."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import ROOT, System, until

UNPRIVILEGED_PORTS = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


class UserSystem(System):
    """A system of the user `uid`, who owns nothing else. Whatever of Python and the checkout lies in a directory closed
    to others (/root) is opened to them, in a mount namespace of the command alone."""

    def __init__(self, directory: Path, uid: int) -> None:
        super().__init__(directory)
        self.uid = uid

    def sampan(self, *arguments: str, check: bool = True, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        home = self.directory / "home"
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--inh-caps=-all"]
        clean = ["env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin"]
        command = [*become, *clean, sys.executable, "-m", "sampan", *arguments]
        script = "\n".join(["set -e", *opening(self.directory / "stage"), shlex.join(["exec", *command])])
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"sampan {' '.join(arguments)} ended {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def processes(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if entry.stat().st_uid == self.uid and (entry / "cmdline").read_bytes():  # not a zombie
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def opening(stage: Path) -> list[str]:
    """Shell commands that make checkout and interpreter reachable for everybody."""
    trees = {Path(path).resolve() for path in (ROOT, sys.prefix, sys.base_prefix)}
    closed = {
        tree: parent
        for tree in trees
        for parent in [next((p for p in reversed(tree.parents) if not p.stat().st_mode & 1), None)]
        if parent
    }
    tops = sorted(str(top) for top in set(closed.values()))
    lines = [f"mkdir -p {shlex.quote(str(stage))}"]
    places = {tree: f"{stage}/{number}" for number, tree in enumerate(sorted(closed))}
    for tree, place in places.items():
        lines += [f"mkdir -p {shlex.quote(place)}", shlex.join(["mount", "--rbind", str(tree), place])]
    lines += [shlex.join(["mount", "-t", "tmpfs", "-o", "mode=755", "none", top]) for top in tops]
    for tree, place in places.items():
        lines += [shlex.join(["mkdir", "-p", str(tree)]), shlex.join(["mount", "--rbind", place, str(tree)])]
        lines.append(shlex.join(["umount", "-l", place]))
    return [*lines, 'cd "$PWD"']


def free_uid() -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    taken |= {path.stat().st_uid for path in [Path("/proc/self")]}
    return next(uid for uid in range(61000 + os.getpid() % 2000, 65000) if uid not in taken)


@pytest.fixture(scope="module")
def mine() -> Iterator[UserSystem]:
    """The shop, Ready, of a user without an account or any group."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become an ordinary user")
    for tool in ("unshare", "setpriv", "kubectl"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not on this machine")
    directory = Path(tempfile.mkdtemp(prefix="sampan-user-", dir="/var/tmp"))
    system = UserSystem(directory, free_uid())
    (directory / "home").mkdir()
    for path in (directory, directory / "home"):
        os.chown(path, system.uid, system.uid)
    directory.chmod(0o755)
    before = set(Path("/dev/shm").iterdir())
    try:
        system.sampan("up", str(ROOT / "examples/shop"), "--detach")
        yield system
        system.sampan("down")
        until(lambda: not system.processes(), 15, "every process of the user has ended")
        left = {path for path in set(Path("/dev/shm").iterdir()) - before if path.stat().st_uid == system.uid}
        assert not left
    finally:
        system.sampan("down", check=False)
        shutil.rmtree(directory)


def test_all_isolation_is_in_force(mine: UserSystem) -> None:
    if not Path("/proc/self/ns/user").exists():
        pytest.skip("this kernel has no user namespaces")
    assert set(mine.info["isolation"].values()) == {"in force"}


def test_an_order_is_confirmed_and_outlives_its_pods(mine: UserSystem) -> None:
    body = {"user_id": 1, "lines": [{"product_id": 1, "quantity": 1}]}
    order = mine.post("/api/orders", body)["id"]
    until(lambda: mine.get(f"/api/orders/{order}")["status"] == "confirmed", 15, "the order is confirmed")
    mine.kubectl("delete", "pod", "-n", "shop", "-l", "app.kubernetes.io/name=payments")
    second = mine.post("/api/orders", body)["id"]
    until(lambda: mine.get(f"/api/orders/{second}")["status"] == "confirmed", 20, "the next order is confirmed")
    assert mine.get(f"/api/orders/{order}")["status"] == "confirmed"


def test_a_container_sees_its_volumes_names_and_host_name(mine: UserSystem) -> None:
    pod = mine.objects("pods", "-n", "shop", "-l", "app.kubernetes.io/name=orders")[0]["metadata"]["name"]
    script = (
        "cat /bindings/messaging/uri; echo; hostname; id -u; getent hosts users; ls /config; touch /tmp/x && rm /tmp/x"
    )
    said = mine.kubectl("exec", "-n", "shop", pod, "--", "sh", "-c", script).split("\n")
    assert said[0].startswith("nats://")
    assert said[1:3] == [pod, str(mine.uid)]
    assert said[3].startswith("127.")
    assert "checkout" in said
    assert "serving" in mine.kubectl("logs", "-n", "shop", pod)


def test_a_directory_one_may_not_write_or_read_is_refused_with_the_remedy(mine: UserSystem) -> None:
    closed = mine.directory / "closed"
    for path in (closed, closed / ".sampan"):
        path.mkdir(mode=0o700)
    try:
        for command, where in (("cluster", closed), ("cluster", closed / ".sampan"), ("status", closed / ".sampan")):
            said = mine.sampan(command, "--directory", str(where), check=False)
            assert (said.returncode, "Traceback" in said.stderr) == (2, False), said.stderr
            assert "--directory" in said.stderr
            assert "belongs to user 0" in said.stderr or where == closed / ".sampan"
    finally:
        shutil.rmtree(closed)


def test_secrets_are_closed_to_others(mine: UserSystem) -> None:
    state = mine.directory / ".sampan"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "kubeconfig").stat().st_mode & 0o777 == 0o600
    read = subprocess.run(
        ["setpriv", f"--reuid={mine.uid + 1}", f"--regid={mine.uid + 1}", "--clear-groups", "ls", str(state)],
        capture_output=True,
        check=False,
    )
    assert read.returncode != 0


@pytest.mark.skipif(UNPRIVILEGED_PORTS <= 443, reason="every port is free for all on this machine")
def test_a_privileged_port_of_a_service_is_said_with_the_remedy(mine: UserSystem) -> None:
    events = mine.kubectl("get", "events", "-A", "-o", "jsonpath={.items[*].message}")
    assert "ip_unprivileged_port_start" in events


@pytest.mark.skipif(UNPRIVILEGED_PORTS <= 80, reason="every port is free for all on this machine")
def test_a_privileged_port_of_a_container_is_said_in_its_log(mine: UserSystem) -> None:
    command = ["python", "-m", "http.server", "80"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "low", "namespace": "default"},
        "spec": {"containers": [{"name": "low", "image": "python", "command": command}], "restartPolicy": "Never"},
    }
    mine.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    until(
        lambda: "port 80 needs a privilege" in mine.kubectl("logs", "low", check=False), 10, "the log names the remedy"
    )
