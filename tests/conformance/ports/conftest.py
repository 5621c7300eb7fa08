"""Real servers for the suites of the ports: started once a session, in directories of their own, on free ports."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sampan.service.data.database import SqlDatabase
from sampan.service.messaging.port import Broker
from tests.conformance.ports.databases import ENGINES, new_database
from tests.conformance.ports.messaging import BROKERS, connected, metadata, new_name
from tests.faults import FaultProxy
from tests.servers.base import Server, free_port, running, running_again, until
from tests.servers.consul import start_consul, start_consul_api
from tests.servers.etcd import start_etcd
from tests.servers.kafka import start_kafka
from tests.servers.mariadb import start_mariadb
from tests.servers.nats import start_nats
from tests.servers.postgresql import Postgres, start_postgresql
from tests.servers.rabbitmq import start_rabbitmq
from tests.servers.redis import start_redis
from tests.servers.s3 import start_s3


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
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_s3(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_redis(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    with running(start_redis(tmp_path)) as server:
        yield server


@pytest.fixture
def patient_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine busy with other tests may take longer than a service would wait."""
    monkeypatch.setattr("sampan.service.cache.redis.SECONDS", 10.0)


REGISTRIES: dict[str, Callable[[Path], Server]] = {
    "etcd": start_etcd,
    "consul": start_consul,
    "consul-api": start_consul_api,
}


def _started_when_asked_for(factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(running(REGISTRIES[name](factory.mktemp(name)))))


@pytest.fixture(scope="session")
def coordination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """`coordination("etcd")` is the session's server of that kind."""
    yield from _started_when_asked_for(tmp_path_factory)


@pytest.fixture(scope="session")
def killable_coordination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    yield from _started_when_asked_for(tmp_path_factory)


@pytest.fixture(params=REGISTRIES)
def own_coordination(
    request: pytest.FixtureRequest, killable_coordination: Callable[[str], Server]
) -> tuple[str, Server]:
    """Its kind, and one that a test may kill; it runs when the test begins."""
    return request.param, running_again(killable_coordination(request.param))


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_mariadb(tmp_path_factory.mktemp("mariadb"))) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    server = start_postgresql()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(params=ENGINES)
def database_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a new, empty database on each engine."""
    return new_database(request.param, request, tmp_path)


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


# Brokers: a suite that asks for `broker_uri` runs on each of them; `own_broker` is one that a test may kill.


STARTS: dict[str, Callable[..., Server]] = {
    "nats": start_nats,
    "rabbitmq": start_rabbitmq,
    "kafka": start_kafka,
}


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_rabbitmq(tmp_path_factory.mktemp("rabbitmq"))) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_kafka(tmp_path_factory.mktemp("kafka"))) as server:
        yield server


@pytest.fixture(params=BROKERS)
def broker_uri(request: pytest.FixtureRequest) -> str:
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.uri


@pytest.fixture(scope="session", params=BROKERS)
def killable_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Behind a proxy, whose faults are a test's to choose: `proxy` of the server."""
    directory = tmp_path_factory.mktemp("killable")
    with FaultProxy(("127.0.0.1", 0)) as proxy:
        more = {"advertised": proxy.port} if request.param == "kafka" else {}  # its clients come to where it says
        with running(STARTS[request.param](directory, **more)) as server:
            proxy.target = ("127.0.0.1", server.port)
            server.uri = server.uri.replace(f":{server.port}", f":{proxy.port}")
            server.proxy = proxy
            yield server


@pytest.fixture
def own_broker(killable_broker: Server) -> Server:
    """One that a test may kill; it runs when the test begins."""
    return running_again(killable_broker)


@pytest.fixture
async def broker(broker_uri: str) -> AsyncIterator[Broker]:
    async with connected(broker_uri) as broker:
        yield broker


@pytest.fixture
def name() -> str:
    return new_name()


@pytest.fixture
async def database(database_uri: str) -> AsyncIterator[SqlDatabase]:
    """With the tables of the messaging suites."""
    async with opened(database_uri) as database:
        yield database


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    """The same on SQLite alone."""
    async with opened(f"sqlite:///{tmp_path / 'test.db'}") as database:
        yield database


@contextlib.asynccontextmanager
async def opened(uri: str) -> AsyncIterator[SqlDatabase]:
    from sampan.service.bindings import Binding

    database = SqlDatabase("test", Binding("database-test", uri.partition(":")[0], uri))
    async with database.connection() as connection:
        await connection.run_sync(metadata.create_all)
    await database.ensure_tables()
    yield database
    await database.close()
