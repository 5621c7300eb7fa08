"""Instances in Consul's catalogue: a service with a time-to-live check that this process keeps passing.

`consul://host:8500?check=http` has Consul's agent ask /health itself instead. Only passing instances are watched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

from sampan.service.bindings import Binding
from sampan.service.coordination.consul import Consul
from sampan.service.discovery.port import Away, Instance, arranged

TTL_SECONDS: Final = 10
_URL: Final = "sampan-url"  # where instances of Sampan's say all of their address
_GRPC: Final = "sampan-grpc"
_UNKNOWN: Final = "unknown service id"  # what the agent says, with status 404, of an instance it does not have


class ConsulRegistry:
    def __init__(self, binding: Binding) -> None:
        self.consul = Consul(binding)
        self.place = self.consul.address.place
        self.seconds = int(self.consul.address.options.get("ttl", TTL_SECONDS))
        self.http = self.consul.address.options.get("check") == "http"

    async def register(self, instance: Instance) -> ConsulLease:
        parts, check = urlsplit(instance.url), f"service:{instance.service}:{instance.id}"
        probe: dict[str, Any] = {"TTL": f"{self.seconds}s", "Status": "passing"}
        if self.http:
            probe = {"HTTP": f"{instance.url}/health", "Interval": f"{max(1, self.seconds // 3)}s", "Timeout": "2s"}
            probe["Status"] = "passing"
        await self.consul.call(
            "PUT",
            "/v1/agent/service/register",
            {
                "ID": instance.id,
                "Name": instance.service,
                "Address": parts.hostname or "",
                "Port": parts.port or (443 if parts.scheme == "https" else 80),
                "Meta": {
                    **instance.metadata,
                    _URL: instance.url,
                    **({_GRPC: instance.grpc} if instance.grpc else {}),
                },
                # one that died stays listed as critical, which nobody is given, until Consul removes it
                "Check": {**probe, "CheckID": check, "DeregisterCriticalServiceAfter": "1m"},
            },
            {"replace-existing-checks": "true"},
        )
        return ConsulLease(self.consul, instance.id, check, self.seconds, self.http)

    async def watch(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        index, before = 0, None
        while True:
            rows, index = await self.consul.blocking(f"/v1/health/service/{service}", index, {"passing": "true"})
            found = arranged({row["Service"]["ID"]: _instance(service, row) for row in rows or ()})
            if found != before:
                before = found
                yield found

    async def close(self) -> None:
        await self.consul.close()


class ConsulLease:
    def __init__(self, consul: Consul, id: str, check: str, seconds: float, http: bool) -> None:
        self.consul, self.id, self.check, self.seconds, self.http = consul, id, check, seconds, http

    async def renew(self) -> bool:
        try:
            await self.consul.call("GET", f"/v1/agent/service/{self.id}")
        except Away as error:
            if _UNKNOWN not in str(error).lower():
                raise
            return False
        if not self.http:
            await self.consul.call("PUT", f"/v1/agent/check/pass/{self.check}")
        return True

    async def end(self) -> None:
        try:
            await self.consul.call("PUT", f"/v1/agent/service/deregister/{self.id}")
        except Away as error:
            if _UNKNOWN not in str(error).lower():
                raise


def _instance(service: str, row: dict[str, Any]) -> Instance:
    found = row["Service"]
    metadata = dict(found.get("Meta") or {})
    url, grpc = metadata.pop(_URL, ""), metadata.pop(_GRPC, "")
    if not url:
        host = found.get("Address") or row["Node"]["Address"]
        url = f"http://{f'[{host}]' if ':' in host else host}:{found['Port']}"
    return Instance(service, found["ID"], url, metadata, grpc)
