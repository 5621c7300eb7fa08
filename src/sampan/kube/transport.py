"""What lies between the client and an API server: one call for answers, one for watch streams.

Two transports exist: HTTPS to any cluster (`kube.https`), and a direct call into an API server in the same process
(`cluster.apiserver`), which skips encoding. Bodies and answers are JSON-shaped Python values on both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from msgspec import Struct, field

from sampan.kube.objects import Object, WatchEvent

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Request(Struct, frozen=True):
    """One API call. `path` is absolute and unquoted (`/apis/apps/v1/namespaces/shop/deployments/orders/scale`)."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = JSON


class Transport(Protocol):
    async def send(self, request: Request) -> Object:
        """The decoded answer of a call that succeeded. Raises `ApiError` for a `Status` of failure, `OSError` (or
        `TimeoutError`) when the server cannot be reached. The answer is shared: do not mutate it."""

    def watch(self, request: Request) -> AsyncIterator[WatchEvent]:
        """Events until the server ends the stream (which is ordinary) or the iterator is closed. Raises as `send`."""

    async def close(self) -> None: ...
