"""The Linux calls Python 3.11 lacks: namespaces, mounts, pivot_root, prctl, seccomp. Thin; errors are OSError."""

from __future__ import annotations

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_SET_NAME = 15

MACHINE = platform.machine()
_X86 = MACHINE == "x86_64"
NR_PIVOT_ROOT = 155 if _X86 else 41
NR_SECCOMP = 317 if _X86 else 277
NR_BIND = 49 if _X86 else 200
NR_PIDFD_GETFD = 438
NR_MOUNT_SETATTR = 442
AUDIT_ARCH = 0xC000003E if _X86 else 0xC00000B7

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *args: object, what: str = "syscall") -> int:
    return _check(int(_libc.syscall(ctypes.c_long(number), *args)), what)


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def prctl(option: int, value: int) -> None:
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), 0, 0, 0), "prctl")


def set_namespace(fd: int, kind: int) -> None:
    """Join the namespace of the descriptor."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def set_name(name: str) -> None:
    """The process name as `ps` and `top` show it (15 bytes)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _libc.prctl(ctypes.c_int(PR_SET_NAME), buffer, 0, 0, 0)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    encoded = data.encode() if data else None
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), encoded
    )
    _check(result, f"mount {target}")


def set_readonly(target: str, *, readonly: bool, recursive: bool) -> None:
    """Mounts at (and below) `target` read-only, or writable again. OSError before Linux 5.12."""
    attributes = (ctypes.c_uint64 * 4)(int(readonly), int(not readonly), 0, 0)
    syscall(
        NR_MOUNT_SETATTR,
        ctypes.c_int(-100),
        target.encode(),
        ctypes.c_uint(0x8000 if recursive else 0),
        ctypes.byref(attributes),
        ctypes.c_size_t(32),
        what=f"mount_setattr {target}",
    )


def unmount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(target.encode(), ctypes.c_int(flags)), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    syscall(NR_PIVOT_ROOT, new_root.encode(), put_old.encode(), what="pivot_root")


def set_hostname(name: str) -> None:
    encoded = name.encode()[:64]
    _check(_libc.sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname")


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate of another process's file descriptor."""
    return syscall(NR_PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(fd), ctypes.c_uint(0), what="pidfd_getfd")


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(pid: int, address: int, length: int) -> bytes:
    """Bytes of another process's memory."""
    buffer = ctypes.create_string_buffer(length)
    local = _Iovec(ctypes.cast(buffer, ctypes.c_void_p), length)
    remote = _Iovec(ctypes.c_void_p(address), length)
    read = _libc.process_vm_readv(
        ctypes.c_int(pid), ctypes.byref(local), ctypes.c_ulong(1), ctypes.byref(remote), ctypes.c_ulong(1), 0
    )
    return buffer.raw[: _check(int(read), "process_vm_readv")]


def enter_user_namespace() -> None:
    """A user namespace in which the caller keeps its uid and gid and holds every capability."""
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    for path, text in (
        ("/proc/self/uid_map", f"{uid} {uid} 1"),
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/gid_map", f"{gid} {gid} 1"),
    ):
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
