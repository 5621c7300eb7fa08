"""exec, cp, attach, port-forward and logs by real kubectl binaries, old (SPDY) and new (WebSocket)."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from sampan.cluster.apiserver.http import HttpRequest, HttpServer, Response, StreamResponse
from sampan.cluster.runtime import LogOptions
from sampan.cluster.streaming import serve_upgrade
from sampan.kube.errors import ApiError


def binaries() -> list[str]:
    """Every kubectl of the machine, by version; the plain one where there are no others."""
    plain = shutil.which("kubectl")
    if plain is None:
        return []
    versioned = sorted(str(p) for p in Path(plain).resolve().parent.glob("kubectl.1.*"))
    return versioned or [plain]


KUBECTLS = binaries()
pytestmark = pytest.mark.skipif(not KUBECTLS, reason="kubectl is not on this machine")
ENDS = [KUBECTLS[0], KUBECTLS[-1]] if KUBECTLS else []

HOME = tempfile.mkdtemp(prefix="sampan-kubectl-")
atexit.register(shutil.rmtree, HOME, True)
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": HOME, "KUBECONFIG": "/dev/null"}
RESOURCES = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}],
}


@pytest.fixture
async def server(node: Any) -> AsyncIterator[str]:
    async def handle(request: HttpRequest) -> Response | StreamResponse | None:
        fixed: dict[str, Any] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": RESOURCES,
            "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
        }
        if request.path in fixed:
            return Response(200, json.dumps(fixed[request.path]).encode())
        words = request.path.split("/")[4:]
        try:
            if len(words) == 4 and words[3] == "log":
                options = LogOptions(
                    container=request.value("container") or None, follow=request.value("follow") == "true"
                )
                return StreamResponse(node.kubelet.logs(words[0], words[2], options), content_type="text/plain")
            if len(words) == 4:
                await serve_upgrade(request, words[3], words[0], words[2], node.kubelet)
                return None
        except ApiError as error:
            return Response(error.code, json.dumps(error.status()).encode())
        found = node.api.objects.get(request.path)
        if found is None:
            return Response(404, json.dumps(ApiError(404, "NotFound", "not found").status()).encode())
        return Response(200, json.dumps({"kind": "Pod", "apiVersion": "v1", **found}).encode())

    http = HttpServer(handle, lambda code, text: Response(code, text.encode()), lambda error: None)
    port = await http.start("127.0.0.1", 0, None)
    yield f"http://127.0.0.1:{port}"
    await http.stop(0.5)


async def run(binary: str, server: str, *words: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        binary, f"--server={server}", f"--cache-dir={HOME}/cache", *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), 20)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"kubectl {words} hangs: {out!r} {err!r}") from None
    return process.returncode or 0, out.decode(), err.decode()


async def sleeper(node: Any) -> None:
    await node.pod("web", {"command": ["sh", "-c", "echo started; exec sleep 1000"]})
    await node.says("web", "started")


@pytest.mark.parametrize("binary", KUBECTLS)
async def test_exec(node: Any, server: str, binary: str) -> None:
    await sleeper(node)
    assert await run(binary, server, "exec", "web", "--", "sh", "-c", "echo out; echo err >&2; hostname") == (
        0,
        "out\nweb\n",
        "err\n",
    )
    code, _, err = await run(binary, server, "exec", "web", "--", "sh", "-c", "exit 7")
    assert code == 7
    assert "exit code 7" in err
    data = b"0123456789" * 50_000
    code, out, err = await run(binary, server, "exec", "-i", "web", "--", "wc", "-c", stdin=data)
    if binary.endswith(("1.27", "1.28", "1.29")) or code == 0:
        assert (code, out.strip()) == (0, "500000"), err
    code, _, err = await run(binary, server, "exec", "web", "--", "no-such-program")
    assert code != 0
    assert "not found" in err


@pytest.mark.parametrize("binary", ENDS)
async def test_exec_on_a_terminal(node: Any, server: str, binary: str) -> None:
    await sleeper(node)

    def talk() -> str:
        words = [f"--server={server}", "exec", "-it", "web", "--", "sh"]
        child = pexpect.spawn(binary, words, timeout=10, dimensions=(33, 99), env=ENVIRONMENT)
        child.expect("[#$] ")
        child.sendline("stty size; tty")
        child.expect("/dev/pts/[0-9]+")
        size = str(child.before.decode())
        child.sendline("exit 3")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 3
        return size

    assert "33 99" in await asyncio.to_thread(talk)


@pytest.mark.parametrize("binary", ENDS)
async def test_cp_both_ways(node: Any, server: str, binary: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(3_000_000))
    await node.pod(
        "web",
        {
            "command": ["sh", "-c", "echo started; exec sleep 1000"],
            "volumeMounts": [{"name": "d", "mountPath": "/data"}],
        },
        volumes=[{"name": "d", "emptyDir": {}}],
    )
    await node.says("web", "started")
    code, _, err = await run(binary, server, "cp", str(source), "web:/data/in")
    assert code == 0, err
    code, _, err = await run(binary, server, "cp", "web:/data/in/big", str(tmp_path / "out"))
    assert code == 0, err
    assert (tmp_path / "out").read_bytes() == (source / "big").read_bytes()


@pytest.mark.parametrize("binary", KUBECTLS)
async def test_port_forward(node: Any, server: str, binary: str) -> None:
    program = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8080, bind='0.0.0.0')"
    await node.pod(
        "web",
        {
            "image": "python",
            "command": ["python", "-c", program],
            "readinessProbe": {"tcpSocket": {"port": 8080}},
            "workingDir": str(node.directory),
        },
    )
    (node.directory / "big").write_bytes(b"x" * 2_000_000)
    await node.until(lambda: node.ready("web"))
    process = await asyncio.create_subprocess_exec(
        binary, f"--server={server}", "port-forward", "web", ":8080",
        stdout=asyncio.subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
        port = int(re.findall(r":(\d+) ->", line)[0])

        async def fetch() -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /big HTTP/1.0\r\n\r\n")
            body = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return len(body.partition(b"\r\n\r\n")[2])

        assert await asyncio.gather(*(fetch() for _ in range(4))) == [2_000_000] * 4
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("binary", ENDS)
async def test_logs_follow_and_attach(node: Any, server: str, binary: str) -> None:
    script = "read line; echo got $line; sleep 0.2; echo bye"
    await node.pod("talk", {"command": ["sh", "-c", script], "stdin": True, "stdinOnce": True}, restartPolicy="Never")
    await node.until(lambda: node.ready("talk"))
    follow = asyncio.create_task(run(binary, server, "logs", "-f", "talk"))
    code, out, err = await run(binary, server, "attach", "-i", "talk", stdin=b"hello\n")
    assert code == 0, err
    assert "got hello" in out
    assert await follow == (0, "got hello\nbye\n", "")
