"""Buckets when the way to S3 fails, credentials do not suffice, writers are killed and disks are full."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sampan.model import ObjectDenied, ObjectError, ObjectTimeout
from sampan.service.bindings import Binding, BindingError
from sampan.service.objects.bucket import open_bucket
from sampan.service.telemetry.context import CURRENT, Context
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.objects import MIB, content, file_bucket, pieces, s3_bucket
from tests.faults import FaultProxy
from tests.servers.base import until
from tests.servers.s3 import ROOT, S3Server, start_s3


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[S3Server]:
    server = start_s3(directory)
    try:
        yield server
    finally:
        server.stop()


# ---------------------------------------------------------------------- faults of the way to S3


def has_passed(proxy: FaultProxy, count: int) -> bool:
    return proxy.bytes >= count


async def test_resets_in_the_middle_of_parts_are_repeated(s3: S3Server) -> None:
    with FaultProxy(("127.0.0.1", s3.port)) as proxy:
        bucket = s3_bucket(s3, proxy.port)
        bucket.part, bucket.whole = 5 * MIB, 5 * MIB
        data = content(22 * MIB)
        task = asyncio.create_task(bucket.put("k", data))
        for _ in range(2):
            await asyncio.to_thread(until, functools.partial(has_passed, proxy, proxy.bytes + 2 * MIB))
            proxy.reset_all()
        info = await task
        assert info.size == len(data)
        assert await bucket.get("k") == data
        proxy.reset_after(3 * MIB)
        assert b"".join([piece async for piece in bucket.stream("k")]) == data


async def test_latency_and_the_deadline_of_the_request(s3: S3Server) -> None:
    with FaultProxy(("127.0.0.1", s3.port)) as proxy:
        bucket = s3_bucket(s3, proxy.port)
        await bucket.put("k", b"x")
        proxy.latency = 0.1
        assert await bucket.get("k") == b"x"
        proxy.latency = 5.0
        token = CURRENT.set(Context("1" * 32, "2" * 16, deadline=time.monotonic() + 0.3))
        began = time.monotonic()
        with pytest.raises(ObjectTimeout) as caught:
            await bucket.get("k")
        CURRENT.reset(token)
        assert time.monotonic() - began < 4
        assert caught.value.http_status == 503
        assert bucket.errors.value("photos", "timeout") == 1


async def test_a_half_open_connection_is_tried_four_times_then_a_timeout(s3: S3Server) -> None:
    with FaultProxy(("127.0.0.1", s3.port)) as proxy:
        bucket = s3_bucket(s3, proxy.port, timeout="0.3")
        await bucket.put("k", b"x")
        proxy.blackhole = True
        connections = proxy.connections
        with pytest.raises(ObjectTimeout):
            await bucket.get("k")
        assert proxy.connections - connections in (3, 4)  # the first may go by the connection that was there
        proxy.blackhole = False
        proxy.reset_all()
        assert await bucket.get("k") == b"x"


async def test_a_store_that_is_away_is_an_error_not_a_missing_object(s3: S3Server) -> None:
    with FaultProxy(("127.0.0.1", s3.port)) as proxy:
        bucket = s3_bucket(s3, proxy.port)
        proxy.refuse = True
        with pytest.raises(ObjectError) as caught:
            await bucket.get("k")
        assert caught.value.kind == "unavailable"
        with pytest.raises(ObjectError):
            await bucket.check()
        assert ROOT["secret-key"] not in str(caught.value)
    gone = s3_bucket(s3, name="no-such-bucket")
    for asked in (gone.get("k"), gone.check(), gone.put("k", b"")):
        with pytest.raises(ObjectError, match="NoSuchBucket"):
            await asked


# ---------------------------------------------------------------------- credentials


class Strict(NamedTuple):
    server: S3Server
    reader: dict[str, str]
    role: dict[str, str]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    """A server that believes nobody, with the bucket `strict` and a user who may only read."""
    with serving(tmp_path_factory.mktemp("strict")) as server:
        server.client().create_bucket(Bucket="strict")
        server.client().put_object(Bucket="strict", Key="there", Body=b"1")
        reader = server.user("reader", ["s3:GetObject", "s3:ListBucket"])
        role = server.role("worker", ["s3:GetObject"])
        server.enforce()
        yield Strict(server, reader, role)


async def test_denied_is_an_error_of_its_own_never_repeated(strict: Strict, caplog: pytest.LogCaptureFixture) -> None:
    server, reader = strict.server, strict.reader
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        bucket = s3_bucket(server, proxy.port, "strict", **reader)
        assert await bucket.get("there") == b"1"
        with pytest.raises(ObjectDenied):
            await bucket.put("k", b"")
        with pytest.raises(ObjectDenied):
            await bucket.delete_many(["there"])
        stranger = s3_bucket(server, proxy.port, "strict", **{"access-key": "AKIANOBODY", "secret-key": "wrong-secret"})
        with pytest.raises(ObjectDenied):
            await stranger.get("there")
    assert bucket.errors.value("photos", "denied") == 2
    errors = [record for record in caplog.records if record.name == "sampan.objects"]
    assert len(errors) == 3
    assert all(record.levelname == "ERROR" for record in errors)
    assert "wrong-secret" not in caplog.text


ROLE = """
import asyncio, http.server, json, os, sys, threading
class Role(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"AccessKeyId": sys.argv[1], "SecretAccessKey": sys.argv[2], "Token": sys.argv[5],
                           "Expiration": "2099-01-01T00:00:00Z"}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments): print("asked", self.path)
server = http.server.HTTPServer(("127.0.0.1", 0), Role)
threading.Thread(target=server.serve_forever, daemon=True).start()
if sys.argv[4] == "role":
    os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"http://127.0.0.1:{server.server_port}/role"
    os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = os.devnull
else:
    os.environ.update(AWS_ACCESS_KEY_ID=sys.argv[1], AWS_SECRET_ACCESS_KEY=sys.argv[2])
from sampan.service.bindings import Binding
from sampan.service.objects.bucket import open_bucket
from sampan.service.telemetry.metrics import Registry
values = {"endpoint": sys.argv[3], "region": "us-east-1"}
bucket = open_bucket("photos", Binding("bucket-photos", "s3", "s3://strict", values), Registry())
print(asyncio.run(bucket.get("there")))
"""


@pytest.mark.parametrize("way", ["environment", "role"])
def test_credentials_come_from_the_environment_or_the_role(strict: Strict, way: str) -> None:
    key = strict.role if way == "role" else strict.reader
    token = key.get("session-token", "")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ROLE,
            key["access-key"],
            key["secret-key"],
            strict.server.uri,
            way,
            token,
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip().endswith("b'1'"), done.stderr
    assert ("asked /role" in done.stdout + done.stderr) == (way == "role")


def test_bindings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(BindingError, match="ftp"):
        open_bucket("photos", Binding("bucket-photos", "ftp", "ftp://x"), Registry())


# ---------------------------------------------------------------------- files


WRITER = """
import asyncio, os, sys
from sampan.service.bindings import Binding
from sampan.service.objects.bucket import open_bucket
from sampan.service.telemetry.metrics import Registry
async def main():
    bucket = open_bucket("photos", Binding("b", "file", "file://" + sys.argv[1]), Registry())
    n = 0
    while True:
        n += 1
        await bucket.put("k", bytes([n % 256]) * 3_000_000)
        print(n, flush=True)
asyncio.run(main())
"""


def killed_writer(directory: Path) -> int:
    """What the last put was that returned before the writer was killed."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        done = [int(writer.stdout.readline()) for _ in range(4)]
        time.sleep(0.012)
        writer.kill()
        return int((done + writer.stdout.read().split())[-1])


async def test_a_killed_writer_leaves_the_old_object_or_the_new_one(tmp_path: Path) -> None:
    bucket = file_bucket(tmp_path)
    for _ in range(3):
        last = await asyncio.to_thread(killed_writer, tmp_path)
        data = await bucket.get("k")  # its hash is checked
        assert data is not None
        assert len(data) == 3_000_000
        assert data[0] in (last % 256, (last + 1) % 256)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("needs to mount a small file system: root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_keeps_the_old_object(small_disk: Path) -> None:
    bucket = file_bucket(small_disk)
    await bucket.put("k", b"old" * 100_000)
    for source in (content(5 * MIB), pieces(20 * MIB)):
        with pytest.raises(ObjectError, match="space") as caught:
            await bucket.put("k", source)
        assert caught.value.kind == "full"
    assert await bucket.get("k") == b"old" * 100_000
    await bucket.put("k", b"new" * 500_000)  # nothing was left behind that fills it
    assert bucket.errors.value("photos", "full") == 2


async def test_a_key_and_keys_below_it_cannot_both_be_files(tmp_path: Path) -> None:
    bucket = file_bucket(tmp_path)
    await bucket.put("a/b", b"1")
    with pytest.raises(ObjectError):
        await bucket.put("a", b"2")
    with pytest.raises(ObjectError, match="both"):
        await bucket.put("a/b/c", b"3")
    assert await bucket.get("a") is None
    assert await bucket.get("a/b") == b"1"
    await bucket.delete_many(["a/b"])
    await bucket.put("a", b"2")
