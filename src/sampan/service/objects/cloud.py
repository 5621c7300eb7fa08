"""Objects in S3, and by the same library in Google Cloud Storage and Azure Blob Storage.

obstore signs, checks (SHA-256 with every request to S3, a part being one), repeats what may pass (5xx, broken
connections, time-outs; up to three times, 0.1 s doubled each time, with jitter), uploads parts at once, and withdraws
a multipart upload that fails. What it does not do is withdraw one that is cancelled: that is done here.

Credentials are those of the binding, else those of the environment: AWS_* variables, a web identity, the container's
or the instance's role.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sampan.model import (
    ObjectConflict,
    ObjectCorrupt,
    ObjectDenied,
    ObjectError,
    ObjectInfo,
    ObjectMissing,
    ObjectTimeout,
)
from sampan.service.bindings import Binding, BindingError
from sampan.service.objects.port import New

SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
PARTS_AT_ONCE: Final = 4
_ATTEMPT_SECONDS: Final = 20.0
_WITHDRAW_SECONDS: Final = 2.0  # that a caller who has gone waits for; it goes on without him
_RETRY: Final = {
    "max_retries": 3,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}
_S3: Final = {
    "access-key": "access_key_id",
    "secret-key": "secret_access_key",
    "session-token": "session_token",
    "region": "region",
    "endpoint": "endpoint",
}
_KINDS: Final[dict[str, type[ObjectError]]] = {
    "FileNotFoundError": ObjectMissing,
    "PermissionDeniedError": ObjectDenied,
    "UnauthenticatedError": ObjectDenied,
    "AlreadyExistsError": ObjectConflict,
    "PreconditionError": ObjectConflict,
}
# the service's own word, where it sent one, then what the HTTP client says
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_TEXTS: Final[tuple[tuple[str, type[ObjectError]], ...]] = (
    ("TimedOut", ObjectTimeout),
    ("timed out", ObjectTimeout),
    ("AccessDenied", ObjectDenied),  # in the answer for many keys at once
    ("InvalidAccessKeyId", ObjectDenied),
    ("InvalidToken", ObjectDenied),
    ("ExpiredToken", ObjectDenied),
    ("SignatureDoesNotMatch", ObjectDenied),
    ("BadDigest", ObjectCorrupt),
    ("XAmzContentSHA256Mismatch", ObjectCorrupt),
)


class _Abandoned(Exception):
    """Ends the parts of an upload whose caller has gone."""


def options(binding: Binding) -> dict[str, Any]:
    """What obstore's `from_url` is given: keys of the binding, limits, and nothing that has to be secret in code."""
    values = {key: value for key, value in binding.values.items() if key != "provider"}
    client: dict[str, Any] = {
        "timeout": f"{float(values.pop('timeout', _ATTEMPT_SECONDS))}s",
        "connect_timeout": "5s",
        "allow_http": values.get("endpoint", "").startswith("http://"),
    }
    if "ca" in values:
        client["root_certificate"] = values.pop("ca")
    if binding.type in ("s3", "s3a"):
        settings: dict[str, Any] = {to: values[key] for key, to in _S3.items() if key in values}
        settings["checksum_algorithm"] = "SHA256"
    else:
        settings = {key.replace("-", "_"): value for key, value in values.items()}
    return {**settings, "client_options": client, "retry_config": _RETRY}


class Cloud:
    """Implements `port.Store` over obstore."""

    def __init__(self, name: str, binding: Binding) -> None:
        try:
            stores: Any = importlib.import_module("obstore.store")
        except ImportError as error:
            raise BindingError(
                f"bucket {name!r} is at {binding.type}: install sampan[s3] (the obstore package)"
            ) from error
        self.name = name
        self._withdrawing: set[asyncio.Future[Any]] = set()
        try:
            self.store: Any = stores.from_url(binding.uri, **options(binding))
        except Exception as error:
            raise BindingError(f"binding {binding.name}: {_first(error)}") from error
        attributes: dict[str, Any] = {"sampan.bucket": name, "sampan.bucket.store": binding.type}
        if binding.type in ("s3", "s3a"):
            attributes["aws.s3.bucket"] = binding.uri.partition("://")[2].partition("/")[0]
        self.attributes: Mapping[str, Any] = attributes

    def _error(self, error: Exception) -> ObjectError:
        text = str(error)
        code = _CODE.search(text)
        if code is not None and code[1] in ("NoSuchBucket", "NoSuchUpload"):
            return ObjectError(f"bucket {self.name}: {code[1]}")
        kind = _KINDS.get(type(error).__name__)
        if kind is None:
            kind = next((kind for part, kind in _TEXTS if part in text), ObjectError)
        return kind(f"bucket {self.name}: {_first(error) if code is None else code[1]}")

    async def _do(self, work: Any) -> Any:
        try:
            return await work
        except ObjectError:
            raise
        except Exception as error:
            raise self._error(error) from None  # the driver's text has the whole request in it

    async def read(self, key: str, start: int | None, end: int | None, match: str | None) -> tuple[bytes, ObjectInfo]:
        wanted: dict[str, Any] = {} if match is None else {"if_match": match}
        if start is not None:
            wanted["range"] = {"offset": start} if end is None else (start, end)

        async def work() -> tuple[bytes, ObjectInfo]:
            reply = await self.store.get_async(key, options=wanted)
            info = _info(reply.meta, reply.attributes)
            return bytes(await reply.bytes_async()), info

        found: tuple[bytes, ObjectInfo] = await self._do(work())
        return found

    async def head(self, key: str) -> ObjectInfo:
        async def work() -> ObjectInfo:
            reply = await self.store.get_async(key, options={"head": True})
            return _info(reply.meta, reply.attributes)

        found: ObjectInfo = await self._do(work())
        return found

    async def write(self, new: New, data: bytes) -> str:
        mode: Any = "create" if new.absent else {"e_tag": new.match} if new.match is not None else "overwrite"
        done = await self._do(
            self.store.put_async(new.key, data, attributes=_attributes(new), mode=mode, use_multipart=False)
        )
        return str(done["e_tag"] or "")

    async def write_parts(self, new: New, parts: AsyncIterator[bytes], size: int) -> str:
        abandoned = asyncio.Event()
        failure: list[Exception] = []

        async def given() -> AsyncIterator[bytes]:
            leaving = asyncio.ensure_future(abandoned.wait())
            try:
                while True:
                    following = asyncio.ensure_future(anext(parts, None))
                    await asyncio.wait({following, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    if abandoned.is_set():
                        following.cancel()
                        raise _Abandoned
                    try:
                        part = following.result()
                    except Exception as error:
                        failure.append(error)
                        raise
                    if part is None:
                        return
                    yield part
            finally:
                leaving.cancel()

        upload = asyncio.ensure_future(
            self._do(
                self.store.put_async(
                    new.key,
                    given(),
                    attributes=_attributes(new),
                    use_multipart=True,
                    chunk_size=size,
                    max_concurrency=PARTS_AT_ONCE,
                )
            )
        )
        try:
            done = await asyncio.shield(upload)
        except asyncio.CancelledError:
            # an upload that is cancelled stays in the store, and is paid for; one whose source fails is withdrawn
            abandoned.set()
            self._withdrawing.add(upload)
            upload.add_done_callback(self._withdrawn)
            await asyncio.wait({upload}, timeout=_WITHDRAW_SECONDS)
            raise
        except ObjectError:
            if failure:
                raise failure[0] from None  # the source's own error
            raise
        return str(done["e_tag"] or "")

    def _withdrawn(self, upload: asyncio.Future[Any]) -> None:
        self._withdrawing.discard(upload)
        if not upload.cancelled():
            upload.exception()  # that it was abandoned is no news

    async def delete(self, keys: Sequence[str]) -> None:
        try:
            await self._do(self.store.delete_async(list(keys)))
        except ObjectMissing:
            return

    async def copy(self, key: str, to: str) -> None:
        await self._do(self.store.copy_async(key, to))

    async def scan(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]  # the library lists by whole parts of keys
        pages = self.store.list(prefix=folder or None, chunk_size=1000)
        while True:
            try:
                page = await self._do(anext(pages, None))
            except ObjectMissing:
                return
            if page is None:
                return
            for meta in page:
                if meta["path"].startswith(prefix):
                    yield _info(meta, {})

    async def sign(self, key: str, method: str, seconds: float) -> str:
        obstore: Any = importlib.import_module("obstore")
        url = await self._do(obstore.sign_async(self.store, method, key, timedelta(seconds=seconds)))
        return str(url)

    async def check(self) -> None:
        """Any answer will do, save that there is no such bucket: listing may rightly be denied."""
        try:
            await self._do(anext(self.store.list(chunk_size=1), None))
        except (ObjectDenied, ObjectMissing):
            return

    async def close(self) -> None:
        if self._withdrawing:
            await asyncio.wait(set(self._withdrawing), timeout=_WITHDRAW_SECONDS)


def _first(error: Exception) -> str:
    """The first line of what the driver says; the others are its innards."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _attributes(new: New) -> dict[str, str]:
    return {**new.metadata, "Content-Type": new.content_type}


def _info(meta: Mapping[str, Any], attributes: Mapping[str, str]) -> ObjectInfo:
    own = {key.lower(): value for key, value in attributes.items() if key.islower() and key != "content-type"}
    kind = attributes.get("Content-Type", "")
    return ObjectInfo(meta["path"], meta["size"], meta["e_tag"] or "", meta["last_modified"], kind, own)
