"""A program that binds 0.0.0.0 or :: in a pod gets the pod's address: seccomp user notification on bind(2).

The container installs a filter that hands every bind() to its supervisor; the supervisor reads the address, and for a
wildcard performs the bind itself on a duplicate of the socket, so that the program cannot change its mind in between.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable

from sampan.cluster.kubelet import linux

_LD, _JEQ, _RET = 0x20, 0x15, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_NOTIF = struct.Struct("=QIIiIQ6Q")  # id, pid, flags, nr, arch, instruction pointer, arguments
_RESPONSE = struct.Struct("=QqiI")  # id, val, error, flags
_RECV = 0xC0502100
_SEND = 0xC0182101
_ADD_DESCRIPTOR = 0x40182103
_REPLACE = 1  # the descriptor that the caller named
_CONTINUE = 1
_IPV6_V6ONLY = 26


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install() -> int:
    """Filter the calling process and all it starts; the notification descriptor for the supervisor. OSError where the
    kernel or a surrounding sandbox refuses."""
    rows = [
        (_LD, 0, 0, 4),  # architecture
        (_JEQ, 1, 0, linux.AUDIT_ARCH),
        (_RET, 0, 0, _ALLOW),
        (_LD, 0, 0, 0),  # number of the call
        (_JEQ, 0, 1, linux.NR_BIND),
        (_RET, 0, 0, _NOTIFY),
        (_RET, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *row) for row in rows)
    program = _Program(len(rows), code)
    return linux.syscall(
        linux.NR_SECCOMP,
        ctypes.c_uint(_SET_MODE_FILTER),
        ctypes.c_uint(_NEW_LISTENER),
        ctypes.byref(program),
        what="seccomp",
    )


def answer(listener: int, address: str, proc: int) -> str:
    """Take one notification and answer it; what the log should say about it, if anything. `proc` is a descriptor of
    the supervisor's own /proc directory."""
    return decide(listener, lambda _ident, pid, fd, raw: _bind(pid, fd, raw, address, proc))


def decide(listener: int, act: Callable[[int, int, int, bytes], bool]) -> str:
    """Take one notification and answer what `act` says of (its id, the caller's pid, the socket, the address): True
    when the bind is done, False when the caller's own may go on, BindError when it failed. What the log should say."""
    buffer = bytearray(_NOTIF.size)
    try:
        fcntl.ioctl(listener, _RECV, buffer)
    except OSError:
        return ""  # the caller was killed before we looked
    ident, pid, _, _, _, _, fd, pointer, length, *_ = _NOTIF.unpack(buffer)
    error, flags, remark = 0, _CONTINUE, ""
    try:
        if act(ident, pid, fd, linux.read_memory(pid, pointer, min(length, 128))):
            flags = 0
    except OSError as failure:
        if isinstance(failure, BindError):
            error, flags = -(failure.errno or 0), 0
            remark = failure.remark
    with contextlib.suppress(OSError):
        fcntl.ioctl(listener, _SEND, bytearray(_RESPONSE.pack(ident, 0, error, flags)))
    return remark


def replace(listener: int, ident: int, fd: int, socket_: socket.socket) -> None:
    """Put a socket of ours in the place of the caller's descriptor `fd`."""
    request = struct.pack("=QIIII", ident, _REPLACE, socket_.fileno(), fd, os.O_CLOEXEC)
    fcntl.ioctl(listener, _ADD_DESCRIPTOR, request)


class BindError(OSError):
    """bind() itself failed: the program is told so, as if it had called it."""

    remark = ""


def _bind(pid: int, fd: int, raw: bytes, address: str, proc: int) -> bool:
    """Bind for the program; False if its own call is right as it stands."""
    family = struct.unpack_from("=H", raw)[0] if len(raw) >= 16 else 0
    port = struct.unpack_from("!H", raw, 2)[0] if family else 0
    if port == 0:
        return False  # a client's socket, most likely: tying it to the pod would cut it off
    if family == socket.AF_INET and raw[4:8] == bytes(4):
        host = address
    elif family == socket.AF_INET6 and raw[8:24] == bytes(16):
        host = f"::ffff:{address}"
    else:
        return False
    duplicate = _socket_of(pid, fd, proc)
    with duplicate:
        target: tuple[str, int] = (host, port)
        if family == socket.AF_INET6 and duplicate.getsockopt(socket.IPPROTO_IPV6, _IPV6_V6ONLY):
            # IPv6 alone: pods have no IPv6 address. Any port of ::1 keeps the program content and others' ports free.
            target = ("::1", 0)
        try:
            duplicate.bind(target)
        except OSError as failure:
            refused = BindError(failure.errno, failure.strerror)
            if failure.errno == errno.EACCES:
                refused.remark = (
                    f"sampan: port {port} needs a privilege; to allow it run: "
                    f"sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}, or listen on 1024 or above\n"
                )
            raise refused from failure
    return True


def _socket_of(pid: int, fd: int, proc: int) -> socket.socket:
    status = os.open(f"{pid}/status", os.O_RDONLY, dir_fd=proc)
    with os.fdopen(status) as lines:
        leader = next((int(line.split()[1]) for line in lines if line.startswith("Tgid:")), pid)
    pidfd = os.pidfd_open(leader)
    try:
        return socket.socket(fileno=linux.pidfd_getfd(pidfd, fd))
    finally:
        os.close(pidfd)
