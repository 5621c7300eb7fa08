"""Consul over its HTTP API: keys, services, and blocking queries.

https://developer.hashicorp.com/consul/api-docs/features/blocking
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from sampan.service.bindings import Binding
from sampan.service.coordination.away import Away
from sampan.service.coordination.connection import Address, Connection, short

PORT: Final = 8500
WAIT_SECONDS: Final = 30  # a blocking query returns after so long (and a sixteenth) even if nothing changed


class Consul:
    """The ACL token is the binding's `token`, or the password of the uri. `?dc=` names a datacenter."""

    def __init__(self, binding: Binding) -> None:
        self.address = Address(binding, PORT)
        self.connection = Connection(self.address)
        token = self.address.token or self.address.password
        self.headers = {"X-Consul-Token": token} if token else {}
        self.params = {key: value for key, value in self.address.options.items() if key in ("dc", "ns", "partition")}

    async def close(self) -> None:
        await self.connection.close()

    async def call(self, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None) -> Any:
        """The reply, decoded; None where there is none. Away, also when it is refused."""
        return (await self._send(method, path, body, {**self.params, **(params or {})}, 5.0))[0]

    async def blocking(self, path: str, index: int, params: Mapping[str, str]) -> tuple[Any, int]:
        """(the reply once the index passed `index`, or the wait is over; the index to go on with). None when absent."""
        asked = {**self.params, **params, "index": str(index), "wait": f"{WAIT_SECONDS}s"}
        reply, found = await self._send("GET", path, None, asked, WAIT_SECONDS * 17 / 16 + 5)
        # an index that went backwards (a restored server) or is 0 starts anew
        return reply, found if found >= max(index, 1) else 0

    async def _send(self, method: str, path: str, body: Any, params: dict[str, str], silence: float) -> tuple[Any, int]:
        data = body.encode() if isinstance(body, str) else None if body is None else msgspec.json.encode(body)
        try:
            async with await self.connection.open(
                method, quote(path, safe="/"), body=data, headers=self.headers, params=params, silence=silence
            ) as response:
                raw = await response.read()
                index = int(response.headers.get("X-Consul-Index", "0"))
                if response.status == 404 and index:
                    return None, index
                if response.status >= 400:
                    said = raw.decode(errors="replace").strip().splitlines()
                    raise Away(f"{self.address.place}: {response.status} {said[0][:200] if said else ''}".rstrip())
                kind = response.content_type
                return (msgspec.json.decode(raw) if raw and kind == "application/json" else None), index
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Away(f"{self.address.place}: {short(error)}") from error
