"""The wait until ready pods can be reached: each is an endpoint of its Services, and the proxy carries to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from sampan.cli.failure import Failure
from sampan.cli.view import is_ready
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, labels_of, name_of, namespace_of, uid_of
from sampan.kube.transport import Request

SECONDS: Final = 10.0  # it takes some milliseconds, on a busy machine some hundred
_PAUSE: Final = 0.01
_SERVICE: Final = "kubernetes.io/service-name"
PROXY: Final = Request("GET", "/readyz/proxy")
"""Answered when the proxy has applied all that it knows."""


async def until_served(client: Client, pods: Callable[[], Iterable[Object]], seconds: float = SECONDS) -> None:
    """Return when every ready pod of `pods()` can be reached by its Services. Raises Failure, which names what lacks,
    after `seconds`."""
    waits = "the cluster does not answer"
    try:
        async with asyncio.timeout(seconds):
            while waits := await _lacking(client, list(pods())) or await _behind(client):  # noqa: ASYNC110
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise Failure(f"pods are Ready, but not served within {seconds:g} s: {waits}") from None


async def _lacking(client: Client, pods: list[Object]) -> str:
    """The first ready pod that one of its Services does not know, "" when each does."""
    pods = [pod for pod in pods if is_ready(pod) and not is_deleting(pod)]
    for namespace in sorted({namespace_of(pod) or "" for pod in pods}):
        services, slices = await asyncio.gather(
            client.list(kinds.SERVICE, namespace), client.list(kinds.ENDPOINT_SLICE, namespace)
        )
        there = {(labels_of(piece).get(_SERVICE), uid) for piece in slices.items for uid in _ready(piece)}
        for service in services.items:
            selector: dict[str, str] = service["spec"].get("selector") or {}
            if not selector or service["spec"].get("type") == "ExternalName":
                continue
            for pod in pods:
                chosen = namespace_of(pod) == namespace and selector.items() <= labels_of(pod).items()
                if chosen and (name_of(service), uid_of(pod)) not in there:
                    return f"pod {name_of(pod)} is no endpoint of Service {namespace}/{name_of(service)} yet"
    return ""


def _ready(piece: Object) -> list[Any]:
    """UIDs of the pods that an EndpointSlice has as ready; absent means true (EndpointConditions)."""
    endpoints = piece.get("endpoints") or ()
    ready = [one for one in endpoints if (one.get("conditions") or {}).get("ready", True)]
    return [(one.get("targetRef") or {}).get("uid") for one in ready]


async def _behind(client: Client) -> str:
    """What the proxy says while it has not applied all that it knows, "" when it has."""
    try:
        await client.transport.send(PROXY)
    except ApiError as error:
        if error.code != 503:
            raise
        return str(error)
    return ""
