"""etcd through the JSON gateway of its v3 API: ranges, leases, and watches that resume by revision.

https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from sampan.service.bindings import Binding
from sampan.service.coordination.away import Away
from sampan.service.coordination.connection import Address, Connection, lines, short

PORT: Final = 2379
SILENCE_SECONDS: Final = 30.0  # a watch on which nothing came for so long is opened anew, in case nobody is there
_UNAUTHENTICATED: Final = 16  # google.rpc.Code


class Compacted(Exception):
    """The revision to watch from is no longer kept: read everything again."""


class EtcdError(Away):
    """etcd answered with an error. `code` is a google.rpc.Code."""

    def __init__(self, place: str, code: int, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.code = code


def text(data: str) -> str:
    return base64.b64encode(data.encode()).decode()


def plain(data: str) -> str:
    return base64.b64decode(data).decode(errors="replace")


def end_of(prefix: str) -> str:
    """The first key behind all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


class Etcd:
    def __init__(self, binding: Binding) -> None:
        self.address = Address(binding, PORT)
        self.connection = Connection(self.address)
        self._token = ""

    async def close(self) -> None:
        await self.connection.close()

    async def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request. Away; EtcdError when it is a refusal."""
        try:
            async with await self._open(path, body, 5.0) as response:
                reply: dict[str, Any] = msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            raise Away(f"{self.address.place}: {short(error)}") from error
        return reply

    async def _open(self, path: str, body: Mapping[str, Any], silence: float) -> aiohttp.ClientResponse:
        data = msgspec.json.encode(body)
        for attempt in range(2):
            if self.address.user and not self._token:
                self._token = await self._authenticate()
            headers = {"authorization": self._token} if self._token else None
            response = await self.connection.open("POST", path, body=data, headers=headers, silence=silence)
            if response.status == 200:
                return response
            error = await self._refusal(response)
            stale = error.code == _UNAUTHENTICATED or "invalid auth token" in str(error)
            if not (attempt == 0 and self.address.user and stale):
                raise error
            self._token = ""  # it has expired, or the server does not know it since its restart
        raise AssertionError("unreachable")

    async def _authenticate(self) -> str:
        body = msgspec.json.encode({"name": self.address.user, "password": self.address.password})
        async with await self.connection.open("POST", "/v3/auth/authenticate", body=body) as response:
            if response.status != 200:
                raise await self._refusal(response)
            return str(msgspec.json.decode(await response.read())["token"])

    async def _refusal(self, response: aiohttp.ClientResponse) -> EtcdError:
        try:
            body = msgspec.json.decode(await response.read())
            code, message = int(body.get("code", 0)), str(body.get("message") or body.get("error"))
        except Exception:
            code, message = 0, f"status {response.status}"
        return EtcdError(self.address.place, code, message)

    async def range(self, key: str, prefix: bool = False) -> tuple[dict[str, str], int]:
        """(values by key, the revision of that reading). `prefix`: of all keys that begin with `key`."""
        body = {"key": text(key)} | ({"range_end": text(end_of(key))} if prefix else {})
        reply = await self.call("/v3/kv/range", body)
        found = {plain(kv["key"]): plain(kv.get("value", "")) for kv in reply.get("kvs", ())}
        return found, int(reply["header"]["revision"])

    async def put(self, key: str, value: str, lease: int = 0) -> None:
        await self.call("/v3/kv/put", {"key": text(key), "value": text(value), "lease": str(lease)})

    async def delete(self, key: str, prefix: bool = False) -> None:
        body = {"key": text(key)} | ({"range_end": text(end_of(key))} if prefix else {})
        await self.call("/v3/kv/deleterange", body)

    async def grant(self, seconds: int) -> int:
        """A new lease that ends after `seconds` without `keep_alive`."""
        return int((await self.call("/v3/lease/grant", {"TTL": str(seconds)}))["ID"])

    async def keep_alive(self, lease: int) -> bool:
        """Whether the lease still lives; then it does for its whole time again."""
        reply = await self.call("/v3/lease/keepalive", {"ID": str(lease)})
        return int(reply.get("result", reply).get("TTL", 0)) > 0

    async def revoke(self, lease: int) -> None:
        """End a lease; its keys go with it."""
        await self.call("/v3/lease/revoke", {"ID": str(lease)})

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[tuple[int, dict[str, str | None]]]:
        """(revision, what changed: the value by key, None where deleted), from `revision` on, in their order.

        Ends after a silence: go on with the revision behind the last one. Away; Compacted.
        """
        create = {
            "key": text(prefix),
            "range_end": text(end_of(prefix)),
            "start_revision": str(revision),
        }
        response = await self._open("/v3/watch", {"create_request": create}, SILENCE_SECONDS)
        try:
            async for line in lines(response):
                message = msgspec.json.decode(line)
                if "error" in message:
                    fault = message["error"]
                    raise EtcdError(self.address.place, int(fault.get("grpc_code", 0)), str(fault.get("message")))
                result = message.get("result", {})
                if int(result.get("compact_revision", 0)):
                    raise Compacted
                if result.get("canceled"):
                    raise Away(f"{self.address.place}: {result.get('cancel_reason') or 'the watch was cancelled'}")
                if result.get("created") and int(result["header"]["revision"]) + 1 < revision:
                    raise Compacted  # the store was set up anew, or restored from a backup
                for seen, changes in _transactions(result.get("events", ())):
                    yield seen, changes
            raise Away(f"{self.address.place}: the watch ended")
        except TimeoutError:
            return
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            raise Away(f"{self.address.place}: {short(error)}") from error
        finally:
            response.close()


def _transactions(events: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """What changed together, by revision: one message may hold all that happened during a break."""
    for revision, group in itertools.groupby(events, lambda event: int(event["kv"]["mod_revision"])):
        yield (
            revision,
            {
                plain(event["kv"]["key"]): None
                if event.get("type") == "DELETE"
                else plain(event["kv"].get("value", ""))
                for event in group
            },
        )
