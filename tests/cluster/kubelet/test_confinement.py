"""What confines a container: limits of memory, CPU and size, mounts of its own, the user it runs as."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.kubelet.cgroups import Group, Groups, Unavailable
from sampan.kube import kinds

pytestmark = pytest.mark.usefixtures("node")
ROOT = os.getuid() == 0


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", script], **more}


@pytest.fixture
def groups(node: Any) -> Groups:
    found: Groups | None = node.kubelet._groups
    if found is None:
        pytest.skip(f"no control groups here: {node.kubelet.limits}")
    return found


async def test_who_takes_more_memory_than_its_limit_is_oom_killed(node: Any, groups: Groups) -> None:
    code = "import time; time.sleep(0.2); taken = bytearray(400 << 20); print('survived'); time.sleep(100)"
    limits = {"limits": {"memory": "64Mi"}}
    await node.pod("hog", {"image": "python", "command": ["python", "-c", code], "resources": limits})
    await node.until(lambda: node.state("hog").get("lastState", {}).get("terminated"))
    ended = node.state("hog")["lastState"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    assert "survived" not in await node.text("hog", previous=True)


async def test_a_failure_within_the_limit_is_no_oom(node: Any, groups: Groups) -> None:
    await node.pod("bad", shell("exit 3", resources={"limits": {"memory": "64Mi"}}), restartPolicy="Never")
    await node.until(lambda: (node.get("bad").get("status") or {}).get("phase") == "Failed")
    assert node.state("bad")["state"]["terminated"]["reason"] == "Error"


async def test_cpu_is_limited_and_usage_says_so(node: Any, groups: Groups) -> None:
    await node.pod("busy", shell("while :; do :; done", resources={"limits": {"cpu": "200m", "memory": "64Mi"}}))

    def cores() -> float:
        usage = node.kubelet.usage().get(("default", "busy"), {}).get("main")
        return usage.cpu if usage and usage.window > 2 else 0.0

    await node.until(lambda: cores() > 0.05, 20)
    assert cores() < 0.3


async def test_groups_are_gone_with_their_containers(node: Any, groups: Groups) -> None:
    await node.pod("short", shell("sleep 100 & sleep 100"))
    own = [Path(directory) for directory in groups.directories]
    await node.until(lambda: all(any(entry.is_dir() for entry in path.iterdir()) for path in own))
    await node.client.delete(kinds.POD, "short", "default", grace_seconds=0)
    await node.until(lambda: not any(entry.is_dir() for path in own for entry in path.iterdir()))


async def test_shared_memory_is_the_pods_own_and_ends_with_it(node: Any) -> None:
    if node.kubelet.capabilities.namespaces:
        pytest.skip(f"no namespaces here: {node.kubelet.capabilities.namespaces}")
    before = set(Path("/dev/shm").glob("sampan-*"))
    wait = "until cat /dev/shm/left; do sleep 0.05; done 2>/dev/null; sleep 100"
    await node.pod(
        "sharing", [{"name": "one", **shell("echo mine > /dev/shm/left; sleep 100")}, {"name": "two", **shell(wait)}]
    )
    await node.says("sharing", "mine", container="two")
    assert not Path("/dev/shm/left").exists()
    (own,) = set(Path("/dev/shm").glob("sampan-*")) - before
    assert own.stat().st_mode & 0o777 == 0o700
    await node.client.delete(kinds.POD, "sharing", "default", grace_seconds=0)
    await node.until(lambda: not own.exists())


async def test_too_many_processes_are_refused(node: Any, groups: Groups) -> None:
    script = "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids$(sed -n 's/.*:pids://p' /proc/self/cgroup)/pids.max"
    await node.pod("many", shell(f"{script} 2>/dev/null; sleep 100"))
    await node.says("many", "4096")


def test_version_2_is_given_what_the_kubelet_gives(tmp_path: Path) -> None:
    for name in ("cpu.weight", "cpu.max", "memory.max", "memory.oom.group", "memory.swap.max", "pids.max"):
        (tmp_path / name).touch()
    group = Group(dict.fromkeys(("memory", "cpu", "pids"), tmp_path), 2)
    group.limit({"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "250m"}})
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert said == {
        "cpu.weight": "10",
        "cpu.max": "150000 100000",
        "memory.max": str(1 << 30),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "pids.max": "4096",
    }
    (tmp_path / "memory.events").write_text("low 0\nmax 7\noom 2\noom_kill 1\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 3000\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert (group.oom_kills(), group.memory(), group.cpu_seconds()) == (1, 2000, 2.5)


def test_where_groups_cannot_be_made_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "file"
    closed.touch()  # not even root makes a directory below a file
    monkeypatch.setattr(
        "sampan.cluster.kubelet.cgroups._hierarchies", lambda: [(2, dict.fromkeys(("memory", "cpu", "pids"), closed))]
    )
    with pytest.raises(Unavailable, match="Not a directory"):
        Groups.find("sampan-test")


async def test_tmp_is_each_containers_own(node: Any) -> None:
    two = [shell("touch /tmp/one; ls /tmp; echo said; sleep 100"), shell("sleep 0.5; ls /tmp; echo said; sleep 100")]
    await node.pod("tmp", [{**c, "name": f"c{i}", "image": "busybox"} for i, c in enumerate(two)])
    await node.until(lambda: node.ready("tmp"))
    for name, seen in (("c0", {"one", "said"}), ("c1", {"said"})):
        await node.says("tmp", "said", container=name)
        listed = set((await node.text("tmp", container=name)).split())
        assert listed - {Path(__file__).parts[2]} == seen, "but for a checkout that lies in /tmp itself"
    assert not Path("/tmp/one").exists()


async def test_a_read_only_root_leaves_volumes_writable(node: Any) -> None:
    script = """
      for where in /etc /root /usr/share /tmp /mine /seen; do
        (echo x > $where/probe) 2>/dev/null && echo $where yes || echo $where no
      done; echo x > /dev/null && echo end; sleep 100
    """
    volumes = [{"name": "mine", "emptyDir": {}}]
    mounts = [
        {"name": "mine", "mountPath": "/mine"},
        {"name": "mine", "mountPath": "/seen", "readOnly": True},
        {"name": "mine", "mountPath": "/tmp", "subPath": "tmp"},
    ]
    security = {"readOnlyRootFilesystem": True}
    await node.pod("ro", shell(script, volumeMounts=mounts, securityContext=security), volumes=volumes)
    await node.says("ro", "end")
    said = dict(line.split() for line in (await node.text("ro")).splitlines() if " " in line)
    assert said == {"/etc": "no", "/root": "no", "/usr/share": "no", "/tmp": "yes", "/mine": "yes", "/seen": "no"}
    assert not Path("/etc/probe").exists()


async def test_an_empty_dir_beyond_its_size_evicts_the_pod(node: Any) -> None:
    volumes = [{"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "free", "emptyDir": {}}]
    mounts = [{"name": "small", "mountPath": "/small"}, {"name": "free", "mountPath": "/free"}]
    fill = "head -c 3000000 /dev/zero > /free/f; echo ok; sleep 0.5; head -c 3000000 /dev/zero > /small/f; sleep 100"
    await node.pod("big", shell(fill, volumeMounts=mounts), volumes=volumes)
    await node.until(lambda: (node.get("big").get("status") or {}).get("phase") == "Failed", 20)
    status = node.get("big")["status"]
    assert status["reason"] == "Evicted"
    assert status["message"] == 'Usage of EmptyDir volume "small" exceeds the limit "1Mi". '


@pytest.mark.skipif(not ROOT, reason="only root can run a container as somebody else")
async def test_user_and_groups_are_those_of_the_security_context(node: Any) -> None:
    volumes = [{"name": "shared", "emptyDir": {}}]
    container = shell(
        "id; touch /shared/mine; stat -c '%u %g' /shared/mine; cat /etc/shadow 2> /dev/null || echo closed; sleep 100",
        volumeMounts=[{"name": "shared", "mountPath": "/shared"}],
        securityContext={"runAsUser": 4711},
    )
    context = {"runAsUser": 1, "runAsGroup": 4712, "fsGroup": 4713, "supplementalGroups": [4714]}
    await node.pod("who", container, volumes=volumes, securityContext=context)
    await node.says("who", "closed")
    said = (await node.text("who")).splitlines()
    assert all(number in said[0] for number in ("uid=4711", "gid=4712", "4713", "4714"))
    assert said[1] == "4711 4713"  # the volume is the fsGroup's, and so is what is made in it
