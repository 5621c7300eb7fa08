"""What stands behind a Bucket, wherever its objects are: checks, metrics, spans, and when to send parts."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mimetypes
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import unquote, urlsplit

from sampan.model import (
    ObjectConflict,
    ObjectCorrupt,
    ObjectDenied,
    ObjectError,
    ObjectInfo,
    ObjectMissing,
    ObjectTimeout,
)
from sampan.model.handles.bucket import Source
from sampan.service.bindings import Binding, require_type
from sampan.service.objects.port import DIGEST, New, Store, checked
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.objects")

R = TypeVar("R")

PART: Final = 8 * 2**20
WHOLE: Final = 16 * 2**20  # at most this goes in one request
_CONDITIONAL: Final = 100 * 2**20  # a conditional put has no parts
_QUICK: Final = 256 * 2**10  # hashed at once; more in a thread
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_WEEK: Final = 7 * 24 * 3600.0


class ObjectBucket:
    """Implements `model.bound.BoundBucket`."""

    def __init__(self, name: str, store: Store, registry: Registry, *, writable: bool = True) -> None:
        self.name, self.store, self.writable = name, store, writable
        self.part, self.whole = PART, WHOLE
        self.requests = registry.counter(
            "object_requests_total", "Operations on buckets.", ("bucket", "operation", "outcome")
        )
        self.errors = registry.counter("object_errors_total", "Operations that failed.", ("bucket", "kind"))
        self.bytes = registry.counter("object_bytes_total", "Content moved.", ("bucket", "direction"))
        self.durations = registry.histogram(
            "object_operation_duration_seconds", "Time per operation, repetitions included.", ("bucket", "operation")
        )

    async def _do(self, operation: str, work: Awaitable[R]) -> R:
        """Count, time and trace `work`, which ends with the request's deadline."""
        started, outcome = time.perf_counter(), "ok"
        context = CURRENT.get()
        remaining = None if context is None else context.remaining()
        try:
            with tracing.span(f"{operation} {self.name}", tracing.CLIENT, self.store.attributes):
                try:
                    async with asyncio.timeout(remaining):
                        return await work
                except TimeoutError:
                    raise ObjectTimeout(f"bucket {self.name}: {operation}: the request's time is over") from None
                except (ObjectMissing, ObjectConflict) as error:  # an answer, no failure of the operation
                    answer = error
            raise answer
        except ObjectError as error:
            outcome = error.kind
            if not isinstance(error, (ObjectMissing, ObjectConflict)):
                self.errors.add(self.name, outcome)
            if isinstance(error, ObjectDenied):
                log.error("permission denied: %s of %s", operation, error)
            raise
        finally:
            self.requests.add(self.name, operation, outcome)
            self.durations.observe(time.perf_counter() - started, self.name, operation)

    def _may_write(self) -> None:
        if not self.writable:
            raise PermissionError(f"this process may only read bucket {self.name!r}: declare .read_write() in its uses")

    # ------------------------------------------------------------------ reading

    async def get(self, key: str) -> bytes | None:
        checked(self.name, key)
        try:
            data, info = await self._do("get", self._whole(key))
        except ObjectMissing:
            return None
        self.bytes.add(self.name, "read", amount=info.size)
        return data

    async def _whole(self, key: str) -> tuple[bytes, ObjectInfo]:
        data, info = await self.store.read(key, None, None, None)
        wanted = info.metadata.get(DIGEST)
        if len(data) != info.size or (wanted and await _digest(data) != wanted):
            raise ObjectCorrupt(f"bucket {self.name}: what was read is not what was stored")
        return data, info

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        checked(self.name, key)
        if start < 0 or end < start:
            raise ValueError(f"not a range: {start} to {end}")
        data = await self._do("get", self._range(key, start, end))
        self.bytes.add(self.name, "read", amount=len(data))
        return data

    async def _range(self, key: str, start: int, end: int) -> bytes:
        if start == end:
            await self.store.head(key)
            return b""
        try:
            return (await self.store.read(key, start, end, None))[0]
        except ObjectMissing:
            raise
        except ObjectError:  # stores differ in what they say of a range beyond the end
            if start >= (await self.store.head(key)).size:
                return b""
            raise

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """A request for each piece, which is repeated on its own where it fails."""
        info = await self._do("head", self.store.head(checked(self.name, key)))
        wanted, digest, position = info.metadata.get(DIGEST), hashlib.sha256(), 0
        while position < info.size:
            end = min(position + self.part, info.size)
            piece, _ = await self._do("get", self.store.read(key, position, end, info.etag or None))
            if len(piece) != end - position:
                raise ObjectCorrupt(f"bucket {self.name}: a piece has {len(piece)} bytes instead of {end - position}")
            if wanted:
                await asyncio.to_thread(digest.update, piece)
            position = end
            self.bytes.add(self.name, "read", amount=len(piece))
            yield piece
        if wanted and digest.hexdigest() != wanted:
            raise ObjectCorrupt(f"bucket {self.name}: what was read is not what was stored")

    async def head(self, key: str) -> ObjectInfo | None:
        try:
            return _shown(await self._do("head", self.store.head(checked(self.name, key))))
        except ObjectMissing:
            return None

    async def scan(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        found = self.store.scan(prefix)
        while (info := await self._do("list", anext(found, None))) is not None:
            yield info

    # ------------------------------------------------------------------ writing

    async def put(
        self,
        key: str,
        data: Source,
        content_type: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        return await self._put(_new(self.name, key, content_type, metadata, match=if_match), data)

    async def put_if_absent(
        self, key: str, data: Source, content_type: str | None = None, *, metadata: Mapping[str, str] | None = None
    ) -> bool:
        try:
            await self._put(_new(self.name, key, content_type, metadata, absent=True), data)
        except ObjectConflict:
            return False
        return True

    async def _put(self, new: New, data: Source) -> ObjectInfo:
        self._may_write()
        info = await self._do("put", self._store(new, data))
        self.bytes.add(self.name, "written", amount=info.size)
        return info

    async def _store(self, new: New, data: Source) -> ObjectInfo:
        if isinstance(data, (bytes, bytearray, memoryview)):
            whole = bytes(data)
            new = _with_digest(new, await _digest(whole))
            return await self._in_parts(new, _slices(whole, self.part), len(whole), whole)
        if isinstance(data, Path):
            with data.open("rb") as file:
                return await self._file(new, file)
        if isinstance(data, AsyncIterable):
            return await self._in_parts(new, _regular(data, self.part), None)
        return await self._file(new, data)

    async def _file(self, new: New, file: BinaryIO) -> ObjectInfo:
        """From where it stands to its end; read twice, first for its hash."""
        begin = file.tell()
        digest, size = await asyncio.to_thread(_hash_file, file)
        file.seek(begin)
        return await self._in_parts(_with_digest(new, digest), _pieces(file, self.part), size)

    async def _in_parts(
        self, new: New, parts: AsyncIterator[bytes], size: int | None, whole: bytes | None = None
    ) -> ObjectInfo:
        """`parts` of the regular size; together in one request where they are few, or the put is conditional."""
        first: list[bytes] = []
        conditional = new.absent or new.match is not None
        limit = _CONDITIONAL if conditional else self.whole
        if whole is None or len(whole) > limit:
            held = 0
            while held <= limit and (part := await anext(parts, None)) is not None:
                first.append(part)
                held += len(part)
            if held <= limit:
                whole = b"".join(first)
            elif conditional:
                raise ValueError(f"bucket {self.name}: a conditional put has at most {limit >> 20} MiB")
            else:
                whole = None
        if whole is not None:
            if size is None:
                new = _with_digest(new, await _digest(whole))
            etag = await self.store.write(new, whole)
            return _stored(new, len(whole), etag)
        sent = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal sent
            while first:
                sent += len(first[0])
                yield first.pop(0)
            async for part in parts:
                sent += len(part)
                yield part

        etag = await self.store.write_parts(new, counted(), self.part)
        found = await self.store.head(new.key)
        if found.etag == etag and found.size != sent:
            await self.store.delete([new.key])
            raise ObjectCorrupt(f"bucket {self.name}: {found.size} bytes were stored of {sent}")
        if size is not None and sent != size:
            raise ObjectCorrupt(f"bucket {self.name}: the file changed while it was sent")
        return _stored(new, sent, etag)

    async def delete_many(self, keys: Iterable[str]) -> None:
        self._may_write()
        wanted = [checked(self.name, key) for key in keys]
        if wanted:
            await self._do("delete", self.store.delete(wanted))

    async def copy(self, key: str, to: str) -> None:
        self._may_write()
        await self._do("copy", self.store.copy(checked(self.name, key), checked(self.name, to)))

    async def presigned_url(self, key: str, method: str, *, expires: float) -> str:
        if method not in ("GET", "PUT") or not 1 <= expires <= _WEEK:
            raise ValueError(f"a URL is for GET or PUT, for 1 second to a week, not for {method}, {expires:g} s")
        if method == "PUT":
            self._may_write()
        return await self._do("sign", self.store.sign(checked(self.name, key), method, expires))

    async def check(self) -> None:
        await self.store.check()

    async def close(self) -> None:
        await self.store.close()


def _new(bucket: str, key: str, content_type: str | None, metadata: Mapping[str, str] | None, **condition: Any) -> New:
    kind = content_type or mimetypes.guess_type(key)[0] or "application/octet-stream"
    more = {name.lower(): value for name, value in (metadata or {}).items()}
    bad = [
        name for name in more if name.startswith("sampan-") or not name.replace("-", "").isalnum() or not name.isascii()
    ]
    if bad:
        raise ValueError(f"names of metadata are letters, digits and '-', and do not begin with 'sampan-': {bad[0]!r}")
    return New(checked(bucket, key), kind, more, **condition)


def _with_digest(new: New, digest: str) -> New:
    return New(new.key, new.content_type, {**new.metadata, DIGEST: digest}, new.absent, new.match)


def _shown(info: ObjectInfo) -> ObjectInfo:
    metadata = {name: value for name, value in info.metadata.items() if name != DIGEST}
    return ObjectInfo(info.key, info.size, info.etag, info.modified, info.content_type, metadata)


def _stored(new: New, size: int, etag: str) -> ObjectInfo:
    return _shown(ObjectInfo(new.key, size, etag, datetime.now(UTC), new.content_type, new.metadata))


async def _digest(data: bytes) -> str:
    if len(data) <= _QUICK:
        return hashlib.sha256(data).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()


def _hash_file(file: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while piece := file.read(2**20):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


async def _slices(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _pieces(file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, size):
        yield piece


async def _regular(data: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """What comes in pieces of any size, in pieces of `size`."""
    held = bytearray()
    async for piece in data:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def open_bucket(name: str, binding: Binding, registry: Registry, *, writable: bool = True) -> ObjectBucket:
    """By the scheme of its uri. BindingError for one that is not known, or whose library is missing."""
    store: Store
    if binding.type == "file":
        from sampan.service.objects.files import Files

        store = Files(name, Path(unquote(urlsplit(binding.uri).path)))
    else:
        from sampan.service.objects.cloud import SCHEMES, Cloud

        require_type(binding, ("file", *SCHEMES))
        store = Cloud(name, binding)
    return ObjectBucket(name, store, registry, writable=writable)
