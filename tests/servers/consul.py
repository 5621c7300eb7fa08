"""Consul where its program is on PATH or was built; and a small server that answers the part of its HTTP API we use.

No registry of packages carries Consul's program. `python -m tests.servers.consul --build` makes it with Go from its
module, in some minutes, and keeps it; where nobody did, the small server is what the suites meet. It follows
https://developer.hashicorp.com/consul/api-docs: indices, blocking queries, sessions of health by time-to-live.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.servers.base import Server, free_port


class ConsulServer(Server):
    def _key(self, method: str, key: str, data: bytes | None = None) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/kv/{key}", data, method=method)
        urllib.request.urlopen(request, timeout=5).close()

    def put(self, key: str, value: str) -> None:
        self._key("PUT", key.lstrip("/"), value.encode())

    def delete(self, key: str) -> None:
        self._key("DELETE", key.lstrip("/"))

    def ids(self, service: str) -> list[str]:
        """Instances that pass their checks."""
        url = f"http://127.0.0.1:{self.port}/v1/health/service/{service}?passing=true"
        with urllib.request.urlopen(url, timeout=5) as reply:
            return [row["Service"]["ID"] for row in json.loads(reply.read())]


VERSION = "1.14.11"  # the last under the Mozilla Public License whose modules stand alone


def built() -> Path:
    """Where `build` keeps the program."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sampan" / f"consul-{VERSION}" / "consul"


def build() -> Path:
    """Make the program with Go: versions as its own go.mod asks, sums as its own go.sum has them."""
    program, go = built(), shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if program.exists():
        return program
    if go is None:
        raise SystemExit("no Go here to build consul with")
    module = f"github.com/hashicorp/consul@v{VERSION}"
    with tempfile.TemporaryDirectory() as made:

        def run(*words: str | Path) -> str:
            return subprocess.run([go, *words], cwd=made, check=True, stdout=subprocess.PIPE, text=True).stdout

        source = Path(json.loads(run("mod", "download", "-json", module))["Dir"])
        (Path(made) / "go.mod").write_text("module consul\n\ngo 1.24\n")
        (Path(made) / "go.sum").write_bytes((source / "go.sum").read_bytes())
        run("get", "-tool", module)
        run("build", "-mod=mod", "-buildvcs=false", "-ldflags", "-s -w", "-o", "consul", "github.com/hashicorp/consul")
        program.parent.mkdir(parents=True, exist_ok=True)
        beside = program.with_name(f".consul.{os.getpid()}")
        shutil.copy(Path(made) / "consul", beside)
        beside.rename(program)
    return program


def start_consul(directory: Path) -> ConsulServer:
    program = shutil.which("consul") or (str(built()) if built().exists() else None)
    if program is None:
        pytest.skip("consul is not on PATH; `python -m tests.servers.consul --build` makes it")
    ports = {name: free_port() for name in ("http", "dns", "server", "serf_lan", "serf_wan", "grpc")}
    config = {"ports": {**ports, "grpc_tls": -1}, "performance": {"raft_multiplier": 1}, "log_level": "ERR"}
    (directory / "consul.json").write_text(json.dumps(config))
    command = [
        *(program, "agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=127.0.0.1"),
        *(f"-data-dir={directory / 'consul'}", f"-config-file={directory / 'consul.json'}"),
    ]
    port = ports["http"]

    def leader() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/status/leader", timeout=1) as reply:
                return len(reply.read()) > 2
        except OSError:
            return False

    return ConsulServer(command, port, directory / "consul.log", f"consul://127.0.0.1:{port}", ready=leader)


def start_consul_api(directory: Path) -> ConsulServer:
    """The small server, as a process of its own that keeps its state in a file."""
    port = free_port()
    command = [sys.executable, "-m", "tests.servers.consul", str(port), str(directory / "consul.json")]
    return ConsulServer(command, port, directory / "consul.log", f"consul://127.0.0.1:{port}")


class _Api:
    def __init__(self, file: Path) -> None:
        self.file, self.changed = file, asyncio.Condition()
        kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.index: int = kept.get("index", 1)
        self.keys: dict[str, str] = kept.get("keys", {})
        self.services: dict[str, dict[str, Any]] = kept.get("services", {})

    async def _change(self) -> web.Response:
        async with self.changed:
            self.index += 1
            self.file.write_text(json.dumps({"index": self.index, "keys": self.keys, "services": self.services}))
            self.changed.notify_all()
        return web.json_response(True)

    async def _block(self, request: web.Request) -> None:
        after = int(request.query.get("index", "0"))
        wait = float(request.query.get("wait", "300s").rstrip("s"))
        if after and after >= self.index:
            try:
                async with asyncio.timeout(wait), self.changed:
                    await self.changed.wait_for(lambda: self.index > after)
            except TimeoutError:
                pass

    def _answer(self, rows: Any, status: int = 200) -> web.Response:
        headers = {"X-Consul-Index": str(self.index)}
        return web.json_response(rows, headers=headers) if status == 200 else web.Response(status=404, headers=headers)

    async def get_key(self, request: web.Request) -> web.Response:
        await self._block(request)
        start, deep = request.match_info["key"], "recurse" in request.query
        rows = [
            {"Key": key, "Value": base64.b64encode(value.encode()).decode(), "Flags": 0, "LockIndex": 0}
            for key, value in sorted(self.keys.items())
            if key == start or (deep and key.startswith(start))
        ]
        return self._answer(rows, 200 if rows else 404)

    async def put_key(self, request: web.Request) -> web.Response:
        self.keys[request.match_info["key"]] = await request.text()
        return await self._change()

    async def delete_key(self, request: web.Request) -> web.Response:
        self.keys.pop(request.match_info["key"], None)
        return await self._change()

    async def leader(self, _: web.Request) -> web.Response:
        return web.json_response("127.0.0.1:8300")

    async def register(self, request: web.Request) -> web.Response:
        body = await request.json()
        seconds = float(body["Check"]["TTL"].rstrip("s")) if "TTL" in body["Check"] else 0.0
        passing = body["Check"].get("Status") == "passing"
        self.services[body["ID"]] = {**body, "seconds": seconds, "passing": passing, "passed": time.time()}
        return await self._change()

    async def deregister(self, request: web.Request) -> web.Response:
        if self.services.pop(request.match_info["id"], None) is None:
            return web.Response(status=404, text=f"Unknown service ID {request.match_info['id']!r}.")
        return await self._change()

    async def get_service(self, request: web.Request) -> web.Response:
        found = self.services.get(request.match_info["id"])
        if found is None:
            return web.Response(status=404, text=f"unknown service ID: {request.match_info['id']}")
        return web.json_response({"ID": found["ID"], "Service": found["Name"]})

    async def passed(self, request: web.Request) -> web.Response:
        for service in self.services.values():
            if service["Check"]["CheckID"] == request.match_info["check"]:
                service["passed"], before, service["passing"] = time.time(), service["passing"], True
                return web.Response() if before else await self._change()
        return web.Response(status=404, text="Unknown check ID")

    async def health(self, request: web.Request) -> web.Response:
        await self._block(request)
        return self._answer(
            [
                {"Node": {"Address": "127.0.0.1"}, "Service": {k: one[k] for k in ("ID", "Address", "Port", "Meta")}}
                for one in self.services.values()
                if one["Name"] == request.match_info["name"] and one["passing"]
            ]
        )

    async def expire(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for one in self.services.values():
                if one["seconds"] and one["passing"] and time.time() - one["passed"] > one["seconds"]:
                    one["passing"] = False
                    await self._change()


async def _main(port: int, file: Path) -> None:
    api, app = _Api(file), web.Application()
    app.add_routes(
        [
            web.get("/v1/kv/{key:.*}", api.get_key),
            web.put("/v1/kv/{key:.*}", api.put_key),
            web.delete("/v1/kv/{key:.*}", api.delete_key),
            web.get("/v1/status/leader", api.leader),
            web.put("/v1/agent/service/register", api.register),
            web.put("/v1/agent/service/deregister/{id}", api.deregister),
            web.get("/v1/agent/service/{id}", api.get_service),
            web.put("/v1/agent/check/pass/{check}", api.passed),
            web.get("/v1/health/service/{name}", api.health),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    await api.expire()


if __name__ == "__main__":
    if sys.argv[1:] == ["--build"]:
        sys.stdout.write(f"{build()}\n")
    else:
        asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
