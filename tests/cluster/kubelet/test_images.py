"""Known images run as the programs of this machine that stand in for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sampan.cluster.kubelet import known_images
from sampan.cluster.kubelet.images import Image, ImageError, Images
from sampan.kube import kinds


def missing(name: str) -> bool:
    return known_images.find_program(known_images.BY_NAME[name]) is None


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("redis", "redis"),
        ("redis:7-alpine", "redis"),
        ("docker.io/library/nats:2.11@sha256:00", "nats"),
        ("localhost:5000/shop/web:1", "localhost:5000/shop/web"),
        ("valkey/valkey:8", "valkey/valkey"),
    ],
)
def test_repository(image: str, name: str) -> None:
    assert known_images.repository(image) == name


def test_an_image_binds_to_the_pod_unless_told_otherwise() -> None:
    image = Image("redis", ["/bin/redis-server"], ["--save", ""], bind=["--bind", "{ip}"])
    assert image.argv([], [], "1.2.3.4") == ["/bin/redis-server", "--save", "", "--bind", "1.2.3.4"]
    assert image.argv([], ["redis-server", "--x"], "1.2.3.4") == ["/bin/redis-server", "--x", "--bind", "1.2.3.4"]
    assert image.argv([], ["--bind", "0.0.0.0"], "1.2.3.4") == ["/bin/redis-server", "--bind", "0.0.0.0"]
    assert image.argv(["redis-server"], ["--x"], "1.2.3.4") == ["/bin/redis-server", "--x", "--bind", "1.2.3.4"]
    assert image.argv(["sh", "-c", "x"], [], "1.2.3.4") == ["sh", "-c", "x"]


def test_a_broken_image_file_is_as_good_as_none(directory: Any) -> None:
    (directory / "a.json").write_text("{")
    with pytest.raises(ImageError, match="nothing is downloaded"):
        Images(directory).resolve("a")


async def _ask(host: str, port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return answer


@pytest.mark.skipif(missing("nats"), reason="nats-server is not installed")
async def test_nats(node: Any) -> None:
    probe = {"tcpSocket": {"port": 4222}}
    await node.pod(
        "nats",
        {
            "image": "nats:2.11",
            "args": ["-js", "--store_dir", "/data"],
            "readinessProbe": probe,
            "volumeMounts": [{"name": "d", "mountPath": "/data"}],
        },
        volumes=[{"name": "d", "emptyDir": {}}],
    )
    await node.until(lambda: node.ready("nats"))
    assert (await _ask(node.get("nats")["status"]["podIP"], 4222, b"")).startswith(b"INFO")


@pytest.mark.skipif(missing("redis"), reason="no Redis or Valkey server is installed")
async def test_two_valkeys(node: Any) -> None:
    for name in ("one", "two"):
        await node.pod(name, {"image": "valkey/valkey:8", "readinessProbe": {"tcpSocket": {"port": 6379}}})
    await node.until(lambda: node.ready("one") and node.ready("two"))
    for name in ("one", "two"):
        assert await _ask(node.get(name)["status"]["podIP"], 6379, b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.skipif(missing("postgres"), reason="PostgreSQL is not installed")
async def test_postgres(node: Any) -> None:
    env = [{"name": "POSTGRES_PASSWORD", "value": "secret"}, {"name": "POSTGRES_DB", "value": "shop"}]
    mounts = [{"name": "d", "mountPath": "/var/lib/postgresql/data"}]
    probe = {"tcpSocket": {"port": 5432}}
    await node.pod(
        "pg",
        {"image": "postgres:16", "env": env, "volumeMounts": mounts, "readinessProbe": probe},
        volumes=[{"name": "d", "emptyDir": {}}],
    )
    await node.until(lambda: node.ready("pg"), 20)
    await node.client.delete(kinds.POD, "pg", "default")
    await node.until(lambda: not node.get("pg"))


@pytest.mark.skipif(missing("mariadb"), reason="MariaDB is not installed")
async def test_mariadb(node: Any) -> None:
    import asyncmy  # type: ignore[import-untyped,unused-ignore]

    secret = {"kind": "Secret", "metadata": {"name": "db", "namespace": "default"}, "data": {"p": "c2VjJ3JldA=="}}
    await node.add(kinds.SECRET, secret)
    password = {"valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}}
    env = [
        {"name": "MARIADB_ROOT_PASSWORD", **password},
        {"name": "MYSQL_DATABASE", "value": "shop"},
        {"name": "MYSQL_USER", "value": "ann"},
        {"name": "MYSQL_PASSWORD", **password},
    ]
    container = {
        "image": "mysql:8",
        "env": env,
        "readinessProbe": {"tcpSocket": {"port": 3306}},
        "volumeMounts": [{"name": "d", "mountPath": "/var/lib/mysql"}],
    }
    await node.pod("db", container, volumes=[{"name": "d", "emptyDir": {}}])
    await node.until(lambda: node.ready("db"), 20)
    ip = node.get("db")["status"]["podIP"]
    connection = await asyncmy.connect(host=ip, user="ann", password="sec'ret", db="shop")
    async with connection.cursor() as cursor:
        await cursor.execute("CREATE TABLE t (i INT)")
    connection.close()
    await node.client.delete(kinds.POD, "db", "default")
    await node.until(lambda: not node.get("db"))
