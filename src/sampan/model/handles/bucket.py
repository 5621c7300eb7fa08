"""Object storage."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, overload

from msgspec import Struct, field

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from datetime import datetime

    from sampan.model.bound import BoundBucket

D = TypeVar("D")
Source = bytes | bytearray | memoryview | Path | BinaryIO | AsyncIterable[bytes]


class ObjectError(Exception):
    """An operation on a bucket that failed; what repeating could do has been done. `kind` is that of the metric
    `object_errors_total`. Uncaught in a request it is answered by `http_status`."""

    kind = "unavailable"
    http_status = 503


class ObjectTimeout(ObjectError):
    """No answer in time, after four attempts; or the request's deadline has passed."""

    kind = "timeout"


class ObjectDenied(ObjectError):
    """The credentials do not suffice. Never repeated: somebody must mend it. It is logged as an error."""

    kind = "denied"
    http_status = 500


class ObjectMissing(ObjectError):
    """There is no such object. `get` gives its default instead."""

    kind = "missing"
    http_status = 404


class ObjectConflict(ObjectError):
    """The object is not the one that `if_match` names."""

    kind = "conflict"
    http_status = 409


class ObjectCorrupt(ObjectError):
    """What was read, or what was stored, is not what was sent: size or SHA-256 differ."""

    kind = "corrupt"
    http_status = 500


class ObjectInfo(Struct, frozen=True):
    """What is known of an object: `size` in bytes; `etag` changes with the content. `content_type` and `metadata` come
    from `head` and `put`, not from `scan`."""

    key: str
    size: int
    etag: str
    modified: datetime
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class Bucket(Handle):
    """Objects by key. A key is a path such as `photos/2026/cat.jpg`: no empty, `.` or `..` part, at most 1,024 bytes.

    Operations raise ObjectError; what may pass is repeated up to three times first, with growing pauses.
    """

    kind = "bucket"
    access = ("read", "read_write")

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, *, default: D) -> bytes | D: ...
    async def get(self, key: str, *, default: Any = None) -> Any:
        """The whole object, its SHA-256 checked where one is known; `default` when there is none."""
        bound: BoundBucket = self._need()
        found = await bound.get(key)
        return default if found is None else found

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes `start` up to `end`, which is not included; fewer where the object ends before. ObjectMissing."""
        bound: BoundBucket = self._need()
        return await bound.get_range(key, start, end)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """The object in pieces of at most 8 MiB, all of the same version. ObjectMissing; ObjectConflict when it is
        replaced meanwhile; ObjectCorrupt after the last piece when its SHA-256 is known and differs."""
        bound: BoundBucket = self._need()
        async for piece in bound.stream(key):
            yield piece

    async def put(
        self,
        key: str,
        data: Source,
        content_type: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """Store bytes, a file, or what an iterator yields; readers see the old object or the whole new one.

        More than 16 MiB goes in parts of 8 MiB, four at a time. The content type is guessed from the key if not given.
        `if_match`: only if the present object has this `etag`, else ObjectConflict.
        """
        bound: BoundBucket = self._need()
        return await bound.put(key, data, content_type, metadata=metadata, if_match=if_match)

    async def put_if_absent(
        self, key: str, data: Source, content_type: str | None = None, *, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Store unless there is an object of that key, of many at once by one only. False when there is."""
        bound: BoundBucket = self._need()
        return await bound.put_if_absent(key, data, content_type, metadata=metadata)

    async def head(self, key: str) -> ObjectInfo | None:
        bound: BoundBucket = self._need()
        return await bound.head(key)

    async def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        await self.delete_many([key])

    async def delete_many(self, keys: Iterable[str]) -> None:
        bound: BoundBucket = self._need()
        await bound.delete_many(keys)

    async def copy(self, key: str, to: str) -> None:
        """Within the bucket, without its bytes passing through this process; replaces `to`. ObjectMissing."""
        bound: BoundBucket = self._need()
        await bound.copy(key, to)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys that start with `prefix`, in order."""
        async for info in self.scan(prefix):
            yield info.key

    async def scan(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Like `list`, with sizes and times."""
        bound: BoundBucket = self._need()
        async for info in bound.scan(prefix):
            yield info

    async def presigned_url(self, key: str, method: Literal["GET", "PUT"] = "GET", *, expires: float = 900) -> str:
        """A URL by which anybody may read or write this one object for `expires` seconds (at most a week).

        Treat it as a password. ObjectError where objects are files: nothing serves them.
        """
        bound: BoundBucket = self._need()
        return await bound.presigned_url(key, method, expires=expires)
