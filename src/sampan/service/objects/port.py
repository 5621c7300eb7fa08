"""What a store of objects must offer, and the rules of keys that hold for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct, field

from sampan.model import ObjectInfo

DIGEST: Final = "sampan-sha256"  # the metadata entry with the content's SHA-256, in hexadecimal
RESERVED: Final = ".sampan"  # a first part of keys that is ours
_MAX_KEY: Final = 1024


class New(Struct, frozen=True):
    """What is stored beside the content; only if there is no object (`absent`), or one of the etag `match`."""

    key: str
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    absent: bool = False
    match: str | None = None


class Store(Protocol):
    """Raises ObjectError, of the kind that says what happened; a missing object is always ObjectMissing."""

    attributes: Mapping[str, Any]  # for spans

    async def read(self, key: str, start: int | None, end: int | None, match: str | None) -> tuple[bytes, ObjectInfo]:
        """Bytes `start` to `end` (to the end where None), if the object still has the etag `match`."""

    async def write(self, new: New, data: bytes) -> str:
        """Its etag. Atomic; durable when it returns."""

    async def write_parts(self, new: New, parts: AsyncIterator[bytes], size: int) -> str:
        """As `write`, from pieces of `size` bytes, the last smaller. Where it fails or is cancelled nothing is left."""

    async def head(self, key: str) -> ObjectInfo: ...

    async def delete(self, keys: Sequence[str]) -> None: ...

    async def copy(self, key: str, to: str) -> None: ...

    def scan(self, prefix: str) -> AsyncIterator[ObjectInfo]: ...

    async def sign(self, key: str, method: str, seconds: float) -> str: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...


def checked(bucket: str, key: str) -> str:
    """`key` itself. ValueError, which shows it, when a store could take it for another or for a path elsewhere."""
    parts = key.split("/")
    problem = ""
    if not key or any(part in ("", ".", "..") for part in parts):
        problem = "a key has no empty part, '.' or '..'"
    elif parts[0] == RESERVED:
        problem = f"keys under {RESERVED}/ are reserved"
    elif len(key.encode(errors="replace")) > _MAX_KEY or not key.isprintable() or "\\" in key:
        problem = f"a key is printable, without backslash, of at most {_MAX_KEY} bytes"
    if problem:
        raise ValueError(f"not a key of bucket {bucket!r}: {key[:200]!r}: {problem}")
    return key
