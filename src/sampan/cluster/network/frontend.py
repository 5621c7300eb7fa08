"""Listeners of a program that runs in the router's namespace, opened on this machine.

Envoy runs beside the router, so that its connections reach pods. What it is to offer to the machine, it binds at an
address that stands for one of the machine's; its bind() is answered by us (seccomp user notification) with a socket of
ours in the place of its own. After that Envoy accepts connections of either world with nothing in between.

    127.0.0.1   is the machine's        10.N.y.z   stands for the machine's 127.N.y.z        all else is the router's
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Sequence

from sampan.cluster.kubelet import bindfilter, linux


def alias(address: str) -> str:
    """What a program in the router's namespace binds in order to listen at `address` of the machine."""
    return address if address == "127.0.0.1" else "10." + address.partition(".")[2]


def enter(namespaces: Sequence[tuple[int, int]], link: socket.socket) -> None:
    """In the forked program, before its exec: join the namespaces (descriptor, kind), have its binds answered by the
    other end of `link`, which must be accepted by `Frontend`."""
    for fd, kind in namespaces:
        linux.set_namespace(fd, kind)
    if os.getuid():
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    listener = bindfilter.install()
    socket.send_fds(link, [b"f"], [listener])


class Frontend:
    """Answers the binds of one program."""

    def __init__(self, link: socket.socket) -> None:
        """`link` is the other end of what `enter` was given. Raises OSError when the program did not come that far."""
        _, fds, _, _ = socket.recv_fds(link, 1, 1)
        if not fds:
            raise OSError("the program ended before it joined the cluster's network")
        self._listener = fds[0]
        asyncio.get_running_loop().add_reader(self._listener, self._answer)

    def _answer(self) -> None:
        bindfilter.decide(self._listener, self._bind)

    def _bind(self, ident: int, _pid: int, fd: int, raw: bytes) -> bool:
        if len(raw) < 8 or struct.unpack_from("=H", raw)[0] != socket.AF_INET:
            return False
        port, first, rest = struct.unpack_from("!H", raw, 2)[0], raw[4], socket.inet_ntoa(raw[4:8])
        if first != 10 and rest != "127.0.0.1":
            return False
        host = rest if first == 127 else "127." + rest.partition(".")[2]
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                ours.bind((host, port))
            except OSError as failure:
                raise bindfilter.BindError(failure.errno, failure.strerror) from failure
            bindfilter.replace(self._listener, ident, fd, ours)
        return True

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        os.close(self._listener)
