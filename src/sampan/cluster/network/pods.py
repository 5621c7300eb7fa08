"""The cluster's side of the pods' network: namespaces and sockets from the router."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from typing import Any

from sampan.cluster.kubelet import linux, wire
from sampan.cluster.network import nftables
from sampan.cluster.network.netlink import NETFILTER, Netlink

_ENDED = "the router of the pods' network has ended; a new start of the cluster begins another"


class Refused(OSError):
    """This system gives pods no network of their own; the message says what it refused."""


class PodNetwork:
    """The network of one cluster, whose slice is `number`: pods in 10.N.0.0/16, the machine at `router`."""

    def __init__(self, number: int, channel: socket.socket) -> None:
        """`channel` leads to a starting `router.serve`. Blocks until it is there. Raises Refused."""
        self.number = number
        self.prefix = f"10.{number}"
        self.router = f"{self.prefix}.0.1"
        self._channel = channel
        self._lock = threading.Lock()
        fds = self._answer()
        self.namespace = fds[0]
        self._rules = Netlink(NETFILTER, fds[1])
        self.user_namespace = fds[2] if len(fds) > 2 else -1

    @property
    def namespaces(self) -> list[tuple[int, int]]:
        """What a program joins to run beside the router: (descriptor, kind), in this order."""
        user = [(self.user_namespace, linux.CLONE_NEWUSER)] if self.user_namespace >= 0 else []
        return [*user, (self.namespace, linux.CLONE_NEWNET)]

    def holds(self, address: str) -> bool:
        """Whether it is an address of a pod (or the router's)."""
        return address.startswith(f"{self.prefix}.")

    def _answer(self) -> list[int]:
        received = wire.receive(self._channel)
        if received is None:
            raise Refused(_ENDED)
        answer, fds = received
        if "error" in answer:
            raise Refused(answer["error"])
        return fds

    def _ask(self, message: dict[str, Any], fds: list[int]) -> int:
        with self._lock:
            try:
                wire.send(self._channel, message, fds)
                made = self._answer()
            except (BrokenPipeError, ConnectionResetError, EOFError) as error:
                raise Refused(_ENDED) from error
        return made[0] if made else -1

    async def attach(self, ip: str) -> int:
        """A network namespace for a pod with this address; the descriptor, which the caller closes."""
        made = asyncio.get_running_loop().run_in_executor(None, self._ask, {"op": "attach", "ip": ip}, [])
        try:
            return await asyncio.shield(made)
        except asyncio.CancelledError:
            made.add_done_callback(_close)  # it comes all the same, and nobody waits for it any more
            raise

    async def detach(self, ip: str) -> None:
        """Take the pod off the network."""
        await asyncio.to_thread(self._ask, {"op": "detach", "ip": ip}, [])

    def socket(
        self, *, inside: int = -1, listen: tuple[str, int] | None = None, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        """A socket beside the router, or in the pod whose namespace is `inside`. Blocks shortly."""
        fds = [inside] if inside >= 0 else []
        made = socket.socket(fileno=self._ask({"op": "socket", "listen": listen, "kind": int(kind)}, fds))
        made.setblocking(False)
        return made

    async def connect(
        self, host: str, port: int, *, ssl: ssl.SSLContext | None = None, inside: int = -1
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as the node does; as a program of the pod whose namespace is `inside`."""
        made = await asyncio.to_thread(self.socket, inside=inside)
        try:
            await asyncio.get_running_loop().sock_connect(made, (host, port))
            return await asyncio.open_connection(sock=made, ssl=ssl, server_hostname=host if ssl else None)
        except BaseException:
            made.close()
            raise

    async def apply(self, batch: nftables.Batch) -> None:
        """Put rules in force. Raises OSError with what was refused."""
        await asyncio.to_thread(batch.commit, self._rules)

    def close(self) -> None:
        """End the router, and the network with it."""
        self._channel.close()


def _close(made: asyncio.Future[int]) -> None:
    if not made.cancelled() and made.exception() is None:
        os.close(made.result())
