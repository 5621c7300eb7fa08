"""What a bucket must do, as files of a directory and in S3."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sampan.model import ObjectConflict, ObjectCorrupt, ObjectError, ObjectMissing
from sampan.service.bindings import Binding
from sampan.service.objects.bucket import ObjectBucket, open_bucket
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, Context
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.objects import MIB, content, file_bucket, pieces, s3_bucket, stored_name
from tests.servers.s3 import S3Server


def by_anybody(url: str, data: bytes | None = None) -> bytes:
    kind = {"content-type": "application/octet-stream"} if data else {}
    request = urllib.request.Request(url, data, kind, method="PUT" if data else "GET")
    with urllib.request.urlopen(request, timeout=10) as reply:
        return bytes(reply.read())


@pytest.fixture(params=["file", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectBucket:
    return file_bucket(tmp_path / "objects") if request.param == "file" else s3_bucket(request.getfixturevalue("s3"))


async def test_put_get_delete(bucket: ObjectBucket) -> None:
    assert await bucket.get("a/cat.jpg") is None
    put = await bucket.put("a/cat.jpg", b"\x00\xff", metadata={"Owner": "ada"})
    assert await bucket.get("a/cat.jpg") == b"\x00\xff"
    head = await bucket.head("a/cat.jpg")
    assert head is not None
    assert (head.key, head.size, head.etag) == ("a/cat.jpg", 2, put.etag)
    assert (head.content_type, head.metadata) == ("image/jpeg", {"owner": "ada"})
    assert abs(head.modified.timestamp() - time.time()) < 60
    await bucket.put("a/cat.jpg", b"", "text/plain")
    assert await bucket.get("a/cat.jpg") == b""
    await bucket.delete_many(["a/cat.jpg"])
    await bucket.delete_many(["a/cat.jpg", "never/there"])
    assert await bucket.head("a/cat.jpg") is None


@pytest.mark.parametrize("key", ["ü/中文 x", "a b+c&d=e%41#f?g", "x~!*'()", ".hidden/.k", "a" * 200])
async def test_keys_of_every_spelling(bucket: ObjectBucket, key: str) -> None:
    await bucket.put(key, key.encode())
    assert await bucket.get(key) == key.encode()
    assert [info.key async for info in bucket.scan()] == [key]
    await bucket.delete_many([key])
    assert [info.key async for info in bucket.scan()] == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "a/../../b", "./a", ".sampan/x", "a\x00b", "a\nb", "é" * 600]
)
async def test_what_is_no_key_is_refused(bucket: ObjectBucket, key: str) -> None:
    for refused in (bucket.get(key), bucket.put(key, b""), bucket.delete_many([key]), bucket.head(key)):
        with pytest.raises(ValueError, match="not a key"):
            await refused


async def test_listing_is_by_prefix_in_order(bucket: ObjectBucket) -> None:
    keys = ["a/1", "a/10", "a/2", "a-b", "ab/c/d", "b"]
    for key in keys:
        await bucket.put(key, key.encode())

    async def listed(prefix: str) -> list[str]:
        return [info.key async for info in bucket.scan(prefix)]

    assert await listed("") == sorted(keys)
    assert await listed("a/1") == ["a/1", "a/10"]
    assert await listed("a/") == ["a/1", "a/10", "a/2"]
    assert await listed("a") == ["a-b", "a/1", "a/10", "a/2", "ab/c/d"]
    assert await listed("ab/c/") == ["ab/c/d"]
    assert await listed("none/") == []
    assert [info.size async for info in bucket.scan("ab")] == [6]


async def test_more_objects_than_a_page(bucket: ObjectBucket) -> None:
    keys = [f"n/{number:04}" for number in range(1005 if "s3" not in bucket.store.attributes.values() else 30)]
    for key in keys:
        await bucket.put(key, b"")
    assert [info.key async for info in bucket.scan("n/")] == keys
    await bucket.delete_many(keys)
    assert [info.key async for info in bucket.scan("n/")] == []


async def test_ranges(bucket: ObjectBucket) -> None:
    await bucket.put("k", b"0123456789")
    assert await bucket.get_range("k", 2, 5) == b"234"
    assert await bucket.get_range("k", 8, 100) == b"89"
    assert await bucket.get_range("k", 10, 20) == await bucket.get_range("k", 50, 60) == b""
    assert await bucket.get_range("k", 3, 3) == b""
    for start, end in ((0, 1), (0, 0)):
        with pytest.raises(ObjectMissing):
            await bucket.get_range("none", start, end)
    with pytest.raises(ValueError, match="range"):
        await bucket.get_range("k", 5, 2)


async def test_only_one_of_many_puts_if_absent(bucket: ObjectBucket) -> None:
    done = await asyncio.gather(*(bucket.put_if_absent("k", str(n).encode()) for n in range(8)))
    assert done.count(True) == 1
    assert await bucket.get("k") == str(done.index(True)).encode()


async def increment(bucket: ObjectBucket) -> None:
    """Add one to the number in `n`."""
    while True:
        info = await bucket.head("n")
        assert info is not None
        value = int(await bucket.get("n") or b"")
        try:
            await bucket.put("n", str(value + 1).encode(), if_match=info.etag)
        except ObjectConflict:
            continue
        return


async def test_many_conditional_puts_at_once_lose_no_update(tmp_path: Path) -> None:
    """In a directory, where the comparison is ours; moto compares and writes in two steps."""
    bucket = file_bucket(tmp_path / "objects")
    await bucket.put("n", b"0")
    await asyncio.gather(*(increment(bucket) for _ in range(5)))
    assert await bucket.get("n") == b"5"


async def test_a_conditional_put_loses_no_update(bucket: ObjectBucket) -> None:
    await bucket.put("n", b"0")
    info = await bucket.head("n")
    assert info is not None
    await increment(bucket)  # between somebody's reading and writing
    with pytest.raises(ObjectConflict):
        await bucket.put("n", b"1", if_match=info.etag)
    await increment(bucket)
    assert await bucket.get("n") == b"2"
    with pytest.raises(ObjectConflict):
        await bucket.put("n", b"", if_match='"other"')
    assert bucket.errors.values == {}  # a conflict is an answer


async def test_copy_keeps_content_type_and_metadata(bucket: ObjectBucket) -> None:
    await bucket.put("a.png", b"x", metadata={"n": "1"})
    await bucket.copy("a.png", "b/c")
    head = await bucket.head("b/c")
    assert head is not None
    assert (head.content_type, head.metadata, await bucket.get("b/c")) == ("image/png", {"n": "1"}, b"x")
    with pytest.raises(ObjectMissing):
        await bucket.copy("none", "x")


@pytest.mark.parametrize("kind", ["bytes", "path", "file", "iterator"])
@pytest.mark.parametrize("size", [100, 6 * MIB, 17 * MIB + 5])
async def test_every_source_arrives_whole(bucket: ObjectBucket, tmp_path: Path, kind: str, size: int) -> None:
    bucket.part, bucket.whole = 5 * MIB, 5 * MIB
    data = content(size)
    path = tmp_path / "source"
    path.write_bytes(data)
    source: Any = {"bytes": data, "path": path, "file": io.BytesIO(b"skip" + data), "iterator": pieces(size)}[kind]
    if kind == "file":
        source.seek(4)
    info = await bucket.put("big", source, "application/x-big", metadata={"n": "1"})
    head = await bucket.head("big")
    assert head is not None
    assert (info.size, head.size, head.content_type, head.metadata) == (size, size, "application/x-big", {"n": "1"})
    assert await bucket.get("big") == data
    streamed = [piece async for piece in bucket.stream("big")]
    assert b"".join(streamed) == data
    assert max(map(len, streamed)) <= 5 * MIB
    if "aws.s3.bucket" in bucket.store.attributes and size > 5 * MIB:
        assert info.etag.endswith(f'-{-(-size // (5 * MIB))}"')  # S3's mark of parts


async def test_a_truly_big_object_goes_in_parts(s3: S3Server, tmp_path: Path) -> None:
    bucket, path = s3_bucket(s3), tmp_path / "big"
    with path.open("wb") as file:
        for number in range(104):
            file.write(bytes([number]) * MIB)
    info = await bucket.put("big", path)
    assert info.size == 104 * MIB
    assert info.etag.endswith('-13"')
    digest = hashlib.sha256()
    async for piece in bucket.stream("big"):
        digest.update(piece)
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert bucket.bytes.value("photos", "written") == bucket.bytes.value("photos", "read") == 104 * MIB


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_an_upload_that_ends_early_leaves_nothing(bucket: ObjectBucket, ending: str, tmp_path: Path) -> None:
    bucket.part, bucket.whole = 5 * MIB, 5 * MIB
    await bucket.put("k", b"old")
    reached = asyncio.Event()

    async def then() -> None:
        reached.set()
        if ending == "failed":
            raise LookupError("the source")
        await asyncio.sleep(60)

    task = asyncio.create_task(bucket.put("k", pieces(17 * MIB, then=then)))
    await reached.wait()
    if ending == "cancelled":
        await asyncio.sleep(0.2)
        task.cancel()
    with pytest.raises(asyncio.CancelledError if ending == "cancelled" else LookupError):
        await task
    assert await bucket.get("k") == b"old"
    if "aws.s3.bucket" not in bucket.store.attributes:
        assert not list((tmp_path / "objects/.sampan").glob("new-*"))


async def test_no_part_of_a_withdrawn_upload_stays_in_s3(s3: S3Server) -> None:
    bucket = s3_bucket(s3)
    bucket.part, bucket.whole = 5 * MIB, 5 * MIB
    client, name = s3.client(), stored_name(bucket)
    reached = asyncio.Event()

    async def then() -> None:
        reached.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(bucket.put("k", pieces(17 * MIB, then=then)))
    await reached.wait()
    await asyncio.sleep(0.3)
    assert len(client.list_multipart_uploads(Bucket=name)["Uploads"]) == 1  # it was under way
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "Uploads" not in client.list_multipart_uploads(Bucket=name)


async def test_corruption_is_noticed(bucket: ObjectBucket, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    await bucket.put("k", b"0123456789")
    if "aws.s3.bucket" in bucket.store.attributes:
        server: S3Server = request.getfixturevalue("s3")
        client, name = server.client(), stored_name(bucket)
        metadata = client.head_object(Bucket=name, Key="k")["Metadata"]
        client.put_object(Bucket=name, Key="k", Body=b"0123456780", Metadata=metadata)
    else:
        with (tmp_path / "objects/k").open("r+b") as file:
            file.seek(9)
            file.write(b"0")
        if not hasattr(os, "getxattr") or "user.sampan" not in os.listxattr(tmp_path / "objects/k"):
            pytest.skip("this file system keeps no attributes of files")
    with pytest.raises(ObjectCorrupt):
        await bucket.get("k")
    with pytest.raises(ObjectCorrupt):
        async for _ in bucket.stream("k"):
            pass
    assert bucket.errors.value("photos", "corrupt") >= 1


async def test_a_stream_does_not_mix_versions(bucket: ObjectBucket) -> None:
    bucket.part = 4
    await bucket.put("k", b"aaaaaaaa")
    stream = bucket.stream("k")
    assert await anext(stream) == b"aaaa"
    await bucket.put("k", b"bbbbbbbb")
    with pytest.raises(ObjectConflict):
        await anext(stream)
    with pytest.raises(ObjectMissing):
        await anext(bucket.stream("none"))


async def test_presigned_urls(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3_bucket(s3)
    put = await bucket.presigned_url("k", "PUT", expires=60)
    await asyncio.to_thread(by_anybody, put, b"by anybody")
    got = await bucket.presigned_url("k", "GET", expires=60)
    assert await asyncio.to_thread(by_anybody, got) == await bucket.get("k") == b"by anybody"
    with pytest.raises(ValueError, match="a week"):
        await bucket.presigned_url("k", "GET", expires=8 * 86400)
    with pytest.raises(ObjectError, match="directory"):
        await file_bucket(tmp_path).presigned_url("k", "GET", expires=60)


async def test_a_process_with_a_read_grant_cannot_write(tmp_path: Path) -> None:
    file_bucket(tmp_path)
    bucket = open_bucket("photos", Binding("b", "file", f"file://{tmp_path}"), Registry(), writable=False)
    for write in (bucket.put("a", b""), bucket.delete_many(["a"]), bucket.copy("a", "b")):
        with pytest.raises(PermissionError, match="read_write"):
            await write
    assert await bucket.get("a") is None


async def test_operations_are_spans_and_metrics(bucket: ObjectBucket) -> None:
    trace = os.urandom(16).hex()
    token = CURRENT.set(Context(trace, "2" * 16))
    await bucket.put("secret-key", b"12345")
    await bucket.get("secret-key")
    await bucket.get("none")
    CURRENT.reset(token)
    spans = [span for span in tracing.RECORDED if span.context is not None and span.context.trace_id == trace]
    assert [(span.name, span.error) for span in spans] == [("put photos", ""), ("get photos", ""), ("get photos", "")]
    assert "secret-key" not in str([span.attributes for span in spans])
    outcomes = {labels[1:]: count for labels, count in bucket.requests.values.items()}
    assert outcomes == {("put", "ok"): 1, ("get", "ok"): 1, ("get", "missing"): 1}
    assert bucket.bytes.values == {("photos", "written"): 5, ("photos", "read"): 5}
