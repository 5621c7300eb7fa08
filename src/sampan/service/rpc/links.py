"""The channels of a stub: one to the service's name, or one to each of its instances where those are known."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import grpc

from sampan.service.rpc import credentials, retrying

if TYPE_CHECKING:
    from sampan.service.rpc.client import Channel

_CLOSE_SECONDS: Final = 2.0
_FINISH_SECONDS: Final = 60.0  # for calls over a channel that is given up
_LOOK_SECONDS: Final = 5.0
_RENEW_SECONDS: Final = 0.1


class Link:
    """A channel, to the instance `base` ("" is the service's name), and what its methods were made to."""

    __slots__ = ("base", "channel", "made", "opened")

    def __init__(self, base: str, channel: grpc.aio.Channel) -> None:
        self.base, self.channel, self.opened = base, channel, time.monotonic()
        self.made: dict[str, Any] = {}

    def method(self, kind: str, path: str, how: tuple[Any, ...], options: dict[str, Any]) -> Any:
        found = self.made.get(path)
        if found is None:
            found = self.made[path] = getattr(self.channel, kind)(path, *how, **options)
        return found


class Links:
    """Those of one stub class, opened when first called over."""

    def __init__(self, owner: Channel) -> None:
        self.owner = owner
        self.repeated: list[str] = []  # the methods gRPC's core repeats; between instances we do
        self._open: dict[str, Link] = {}
        self._context: Any = None  # of the identity, as it was when the channels were opened
        self._look = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    def pick(self, tried: Collection[str]) -> Link:
        """The link to call over, to another instance than those `tried` where there is one. With instances,
        `owner.endpoints` is told how it went, by `base`."""
        self._follow_identity()
        endpoints = self.owner.endpoints
        # instances that do not say where they speak gRPC are reached by the service's name
        base = endpoints.pick(tried) if endpoints is not None and endpoints.urls else ""
        link = self._open.get(base)
        if link is None:
            self._leave(*(gone for gone in self._open if endpoints is not None and gone not in endpoints.urls))
            link = self._open[base] = Link(base, self._channel(base))
        return link

    def _follow_identity(self) -> None:
        """Other channels than before where our certificate has changed."""
        identity = self.owner.identity
        if identity is None or (now := time.monotonic()) <= self._look:
            return
        self._look = now + _LOOK_SECONDS
        identity.poll()
        if identity.client_context is not self._context:
            self._context = identity.client_context
            self._leave(*self._open)

    def _channel(self, base: str) -> grpc.aio.Channel:
        secure, address = self.owner.target.secure, _resolved(self.owner.target.address)
        if base:
            parts = urlsplit(base)
            secure, address = parts.scheme == "https", parts.netloc
        if not secure:
            return grpc.aio.insecure_channel(address, self._options())
        # an instance shows the name of its service
        options = [("grpc.ssl_target_name_override", self.owner.name)] if base else []
        return grpc.aio.secure_channel(address, credentials.channel(self.owner.identity), [*self._options(), *options])

    def renew(self, link: Link) -> None:
        """Connect anew for further calls, as a server asked over `link`."""
        if self._open.get(link.base) is link and time.monotonic() - link.opened > _RENEW_SECONDS:
            self._leave(link.base)

    def _leave(self, *bases: str) -> None:
        """Let the calls of these finish; the next ones open others."""
        for base in bases:
            closing = asyncio.ensure_future(self._open.pop(base).channel.close(_FINISH_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _options(self) -> list[tuple[str, Any]]:
        policy = self.owner.policy
        return [
            ("grpc.service_config", retrying.service_config(self.repeated, policy)),
            ("grpc.enable_retries", 1),
            ("grpc.max_receive_message_length", -1),  # what a callee of ours may send, it limits itself
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", int(policy.connect_timeout * 1000)),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.dns_min_time_between_resolutions_ms", 1_000),
            ("grpc.enable_http_proxy", 0),  # a service is inside, whatever http_proxy says
            ("grpc.use_local_subchannel_pool", 1),
        ]

    async def close(self) -> None:
        links, self._open = self._open, {}
        for link in links.values():
            await link.channel.close(_CLOSE_SECONDS)
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_SECONDS)


def _resolved(address: str) -> str:
    """`address`, for gRPC's own resolver; its present IP address where names are known to Python alone."""
    host, _, port = address.rpartition(":")
    if not os.environ.get("SAMPAN_HOSTS") or "/" in address or not host:
        return address
    try:
        return f"ipv4:{socket.getaddrinfo(host, int(port), socket.AF_INET)[0][4][0]}:{port}"
    except (OSError, ValueError):
        return address
