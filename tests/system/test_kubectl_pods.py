"""An unmodified kubectl reaches into pods: logs, exec, attach, cp, port-forward, run, wait, and the care of a node."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pexpect
import pytest

from tests.system.harness import System, line_of, running, until

MANIFESTS = Path(__file__).parent / "manifests"
PAIR = """
apiVersion: v1
kind: Pod
metadata: {name: pair, labels: {app: pair}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: box, emptyDir: {}}]
  containers:
    - name: talker
      image: busybox
      command: [sh, -c, 'n=0; while true; do n=$((n+1)); echo line $n; sleep 0.3; done']
      volumeMounts: [{name: box, mountPath: /box}]
    - name: quiet
      image: busybox
      command: [sh, -c, 'echo quiet begins; exec sleep 1000']
      volumeMounts: [{name: box, mountPath: /box}]
"""
CRASH = """
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  containers:
    - {name: crash, image: busybox, command: [sh, -c, 'echo living; sleep 0.3; exit 7']}
"""
LISTENER = """
apiVersion: v1
kind: Pod
metadata: {name: listener}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: listener
      image: busybox
      stdin: true
      args: [sh, -c, 'while read line; do echo heard $line; done; sleep 9']
"""


@pytest.fixture(scope="module")
def pods(cluster: System) -> System:
    cluster.kubectl("apply", "-f", "-", stdin="---".join((PAIR, CRASH, LISTENER)))
    cluster.kubectl("apply", "-f", str(MANIFESTS / "web.yaml"))
    cluster.kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/pair", "pod/listener", "--timeout=20s")
    return cluster


def test_logs(pods: System) -> None:
    until(lambda: "line 3" in pods.kubectl("logs", "pair", "-c", "talker"), 10, "three lines")
    assert 'Defaulted container "talker" out of: talker, quiet' in pods.run_kubectl("logs", "pair").stderr
    assert pods.kubectl("logs", "pair", "-c", "quiet") == "quiet begins\n"
    assert len(pods.kubectl("logs", "pair", "-c", "talker", "--tail=2").splitlines()) == 2
    assert pods.kubectl("logs", "pair", "-c", "talker", "--limit-bytes=6") == "line 1"
    stamped = pods.kubectl("logs", "pair", "-c", "quiet", "--timestamps")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z quiet begins\n", stamped)
    assert pods.kubectl("logs", "pair", "-c", "talker", "--since=1h").startswith("line 1\n")
    assert not pods.kubectl("logs", "pair", "-c", "talker", "--since=1s").startswith("line 1\n")
    assert pods.kubectl("logs", "pair", "-c", "quiet", "--since-time=2100-01-01T00:00:00Z") == ""
    everything = pods.kubectl("logs", "-l", "app=pair", "--all-containers", "--prefix", "--tail=-1")
    assert "[pod/pair/talker] line 1\n" in everything
    assert "[pod/pair/quiet] quiet begins\n" in everything
    assert "serving\n" in pods.kubectl("logs", "deployment/web")


def test_logs_follow(pods: System) -> None:
    with running(pods, "logs", "-f", "pair", "-c", "talker", "--tail=1") as follow:
        numbers = [int(line_of(follow).split()[1]) for _ in range(4)]
    assert numbers == list(range(numbers[0], numbers[0] + 4))


def test_a_followed_log_ends_with_its_container(pods: System) -> None:
    pods.kubectl("run", "brief", "--image=busybox", "--restart=Never", "--", "sh", "-c", "echo a; sleep 1; echo b")
    until(lambda: "ContainerCreating" not in pods.kubectl("get", "pod", "brief"), 10, "it runs")
    assert pods.kubectl("logs", "-f", "brief", timeout=20) == "a\nb\n"


def test_logs_of_the_life_before(pods: System) -> None:
    until(lambda: int(_field(pods, "crash", "restartCount") or 0) >= 1, 30, "it crashed and began again")
    assert pods.kubectl("logs", "crash", "--previous") == "living\n"
    refused = pods.kubectl("logs", "pair", "-c", "quiet", "--previous", check=False)
    assert 'previous terminated container "quiet" in pod "pair" not found' in refused
    until(lambda: "CrashLoopBackOff" in pods.kubectl("get", "pod", "crash"), 20, "it backs off")
    described = pods.kubectl("describe", "pod", "crash")
    assert re.search(r"Last State: +Terminated\n +Reason: +Error\n +Exit Code: +7\n", described)
    assert "Back-off restarting failed container crash" in described


def _field(system: System, pod: str, field: str) -> str:
    return system.kubectl("get", "pod", pod, "-o", f"jsonpath={{.status.containerStatuses[0].{field}}}")


def test_exec(pods: System) -> None:
    assert pods.kubectl("exec", "pair", "-c", "quiet", "--", "echo", "a b") == "a b\n"
    assert pods.kubectl("exec", "deployment/web", "--", "sh", "-c", "echo $HOSTNAME").startswith("web-")
    failed = pods.run_kubectl("exec", "pair", "-c", "quiet", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (failed.returncode, failed.stdout) == (3, "out\n")
    assert failed.stderr == "err\ncommand terminated with exit code 3\n"
    big = "0123456789abcdef" * 65536
    assert pods.kubectl("exec", "-i", "pair", "-c", "quiet", "--", "cat", stdin=big) == big
    assert pods.kubectl("exec", "-i", "pair", "-c", "quiet", "--", "wc", "-c", stdin=big).strip() == str(len(big))
    missing = pods.run_kubectl("exec", "pair", "-c", "quiet", "--", "nothing-of-this-name")
    assert missing.returncode != 0
    assert "executable file not found in $PATH" in missing.stderr


def test_exec_in_a_terminal(pods: System) -> None:
    shell = pexpect.spawn(
        pods.program, ["exec", "-it", "pair", "-c", "quiet", "--", "sh"],
        env=pods.environment, timeout=15, dimensions=(33, 101), encoding="utf-8",
    )  # fmt: skip
    try:
        shell.sendline("test -t 0 && echo is''terminal")
        shell.expect("isterminal")
        shell.sendline("stty size; echo of''size")
        shell.expect(r"33 101\r\n")
        shell.expect("ofsize")
        shell.setwinsize(44, 99)
        time.sleep(0.3)
        shell.sendline("stty size")
        shell.expect(r"44 99\r\n")
        shell.sendline("sleep 100")
        time.sleep(0.3)
        shell.sendcontrol("c")
        shell.sendline("exit 5")
        shell.expect(pexpect.EOF)
        shell.wait()
        assert shell.exitstatus == 5
    finally:
        shell.close(force=True)


def test_attach(pods: System) -> None:
    with running(pods, "attach", "-i", "listener") as attached:
        assert attached.stdin is not None
        time.sleep(0.5)
        attached.stdin.write("one\n")
        attached.stdin.flush()
        lines = [line_of(attached)]
        while "heard" not in lines[-1]:
            lines.append(line_of(attached))
            assert lines[-1], lines
    assert lines[-1] == "heard one\n"
    assert "heard one\n" in pods.kubectl("logs", "listener")


def test_debug(pods: System) -> None:
    """An ephemeral container beside those of a running pod: its output, its log, its end, and a word typed into it."""
    script = "echo looking around $HOSTNAME; read word; echo heard $word; exit 3"
    common = ("debug", "pair", "--image=busybox", "--profile=general")
    pods.kubectl(*common, "-c", "looker", "--attach=false", "-i", "--", "sh", "-c", script)
    until(lambda: "looking around pair" in pods.kubectl("logs", "pair", "-c", "looker", check=False), 30, "its output")
    pods.kubectl("attach", "pair", "-c", "looker", "-i", stdin="something\n", check=False)

    def shown() -> dict[str, object]:
        statuses = json.loads(pods.kubectl("get", "pod", "pair", "-o", "json"))["status"]["ephemeralContainerStatuses"]
        found: dict[str, object] = {one["name"]: one["state"] for one in statuses}
        return found

    until(lambda: "terminated" in str(shown().get("looker")), 30, "its end")
    assert "'exitCode': 3" in str(shown()["looker"])
    assert pods.kubectl("logs", "pair", "-c", "looker") == "looking around pair\nheard something\n"
    pods.kubectl(*common, "-c", "lost", "--attach=false", "--", "true")
    until(lambda: "terminated" in str(shown().get("lost")), 30, "the end of the second")
    pod = json.loads(pods.kubectl("get", "pod", "pair", "-o", "json"))
    assert pod["status"]["phase"] == "Running" and all(
        c["restartCount"] == 0 for c in pod["status"]["containerStatuses"]
    )


def test_cp_both_ways(pods: System, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/file").write_bytes(bytes(range(256)) * 4096)
    (tree / "empty").touch()
    pods.kubectl("cp", str(tree), "pair:/box/tree", "-c", "talker")
    assert pods.kubectl("exec", "pair", "-c", "quiet", "--", "ls", "/box/tree").split() == ["deep", "empty"]
    pods.kubectl("cp", "pair:/box/tree", str(tmp_path / "back"), "-c", "quiet")
    assert (tmp_path / "back/deep/file").read_bytes() == (tree / "deep/file").read_bytes()
    # kubectl does not wait for all that tar says
    assert "tar: " in pods.kubectl("cp", "pair:/box/none", str(tmp_path / "none"), "-c", "quiet", check=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("target", ["deployment/web", "service/web", "pod"])
def test_port_forward(pods: System, target: str) -> None:
    port = 8080
    if target == "pod":
        target = pods.kubectl("get", "pods", "-l", "app=web", "-o", "name").split()[0]
    elif target == "service/web":
        port = 80
    with running(pods, "port-forward", target, f":{port}") as forward:
        said = line_of(forward)
        found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> 8080\n", said)
        assert found, said
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=10) as reply:
                assert reply.status == 200


def test_proxy(pods: System) -> None:
    with running(pods, "proxy", "--port=0") as proxy:
        found = re.match(r"Starting to serve on 127\.0\.0\.1:(\d+)\n", line_of(proxy))
        assert found
        base = f"http://127.0.0.1:{found[1]}"
        with urllib.request.urlopen(f"{base}/api/v1/namespaces/default/pods/pair", timeout=10) as reply:
            assert json.load(reply)["metadata"]["name"] == "pair"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/api/v1/namespaces/default/pods/none", timeout=10)


def test_run(pods: System) -> None:
    # it waits to be attached to: what is said before is lost, as in any cluster
    words = ["run", "asked", "--image=busybox", "--rm", "-i", "--restart=Never", "--", "sh", "-c", "read x; echo hello"]
    said = pods.kubectl(*words, stdin="x\n")
    assert "hello\n" in said
    assert 'pod "asked" deleted' in said
    failed = pods.run_kubectl(
        "run", "fails", "--image=busybox", "--rm", "-i", "--restart=Never", "--", "sh", "-c", "exit 4"
    )
    assert failed.returncode == 4
    assert "NotFound" in pods.kubectl("get", "pod", "fails", check=False)
    # a shell that answers
    fed = pods.kubectl("run", "fed", "--image=busybox", "--rm", "-i", "--restart=Never", "--", "cat", stdin="given\n")
    assert "given\n" in fed
    pods.kubectl(
        "run", "seen", "--image=busybox", "--port=80", "--labels=a=b", "--env=X=y", "--expose", "--", "sleep", "1000"
    )
    assert pods.kubectl("get", "service", "seen", "-o", "jsonpath={.spec.selector}") == '{"a":"b"}'
    pods.kubectl("wait", "--for=condition=Ready", "pod/seen", "--timeout=10s")
    said = pods.kubectl("delete", "pod", "seen", "--grace-period=0", "--force")
    assert said == 'pod "seen" force deleted\n'
    assert "NotFound" in pods.kubectl("get", "pod", "seen", check=False)


def test_wait(pods: System) -> None:
    pods.kubectl("run", "awaited", "--image=busybox", "--restart=Never", "--", "sh", "-c", "sleep 0.5")
    assert "condition met" in pods.kubectl(
        "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/awaited", "--timeout=15s"
    )
    late = pods.run_kubectl("wait", "--for=condition=Ready", "pod/awaited", "--timeout=1s")
    assert (late.returncode, late.stderr) == (1, "error: timed out waiting for the condition on pods/awaited\n")
    with running(pods, "wait", "--for=delete", "pod/awaited", "--timeout=20s") as wait:
        time.sleep(0.3)
        pods.kubectl("delete", "pod", "awaited")
        assert wait.wait(timeout=15) == 0
    assert 'pods "none" not found' in pods.kubectl("wait", "--for=condition=Ready", "pod/none", check=False)


def test_zz_cordon_taint_and_drain(pods: System) -> None:
    """Last in the file: it moves every pod."""
    assert pods.kubectl("taint", "node", "sampan", "busy=yes:NoSchedule") == "node/sampan tainted\n"
    pods.kubectl("run", "homeless", "--image=busybox", "--", "sleep", "1000")
    until(lambda: "untolerated taint" in pods.kubectl("describe", "pod", "homeless"), 10, "the scheduler says why")
    assert pods.kubectl("taint", "node", "sampan", "busy-") == "node/sampan untainted\n"
    pods.kubectl("wait", "--for=condition=Ready", "pod/homeless", "--timeout=20s")
    assert pods.kubectl("cordon", "sampan") == "node/sampan cordoned\n"
    assert "Ready,SchedulingDisabled" in pods.kubectl("get", "nodes")
    refused = pods.run_kubectl("drain", "sampan", "--timeout=30s")
    assert refused.returncode == 1
    assert "declare no controller (use --force to override)" in refused.stderr
    said = pods.kubectl("drain", "sampan", "--force", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=30s")
    assert said.endswith("node/sampan drained\n")
    assert said.count(" evicted\n") >= 4
    assert pods.kubectl("uncordon", "sampan") == "node/sampan uncordoned\n"
    pods.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
