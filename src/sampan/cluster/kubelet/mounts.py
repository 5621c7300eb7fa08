"""What a container sees of the file system: the host's, with volumes at their mount paths. Runs in the container's own
mount namespace, so that nothing of it touches the host.

A mount path whose parent does not exist makes its nearest existing ancestor *split*: a tmpfs takes the directory's
place and every child is bound (or, for a symlink, made again) inside it. Splitting `/` means a new root.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from msgspec import Struct

from sampan.cluster.kubelet import linux


class Mount(Struct, frozen=True):
    """`source` (a host file or directory) appears at `target` (absolute)."""

    source: str
    target: str
    readonly: bool = False


def apply(mounts: list[Mount], scratch: str, *, readonly_root: bool = False) -> None:
    """Perform `mounts` in the caller's private mount namespace. `scratch`: an empty directory for a new root.
    `readonly_root`: nothing but they (and /dev/shm) can be written.

    Raises OSError naming the path that failed.
    """
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    # Sources are held open: once targets are covered their paths may lead elsewhere.
    opened = [(os.open(m.source, os.O_PATH | os.O_CLOEXEC), m) for m in mounts]
    split: set[str] = set()
    # A new root for a read-only one too: what we have open for writing lies on the old one.
    if readonly_root or any(not os.path.lexists("/" + m.target.strip("/").split("/")[0]) for m in mounts):
        _new_root(scratch)
        split.add("/")
    for fd, mount in sorted(opened, key=lambda pair: pair[1].target.rstrip("/").count("/")):
        _place(fd, mount, split)
    for fd, _ in opened:
        os.close(fd)
    if "/" in split:  # only now: a mount can be bound only while its tree is attached
        linux.unmount("/.old", linux.MNT_DETACH)
        Path("/.old").rmdir()
    if readonly_root:
        linux.set_readonly("/", readonly=True, recursive=True)
        for target in ["/dev/shm", *(mount.target for mount in mounts if not mount.readonly)]:  # noqa: S108
            with contextlib.suppress(OSError):  # read-only on the machine
                linux.set_readonly(os.path.realpath(target), readonly=False, recursive=False)


def _new_root(scratch: str) -> None:
    linux.mount("sampan", scratch, "tmpfs", 0, "mode=755")
    _bind_children("/", scratch)
    old = f"{scratch}/.old"
    Path(old).mkdir()
    linux.pivot_root(scratch, old)
    os.chdir("/")


def _bind_children(source: str, target: str) -> None:
    """Bind every entry of the directory `source` (a path, or /proc/self/fd/N) into `target`."""
    with os.scandir(source) as entries:
        for entry in entries:
            path = f"{target}/{entry.name}"
            if entry.is_symlink():
                Path(path).symlink_to(Path(source, entry.name).readlink())
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(info.st_mode):
                Path(path).mkdir()
            else:
                Path(path).touch()
            try:
                linux.mount(f"{source.rstrip('/')}/{entry.name}", path, None, linux.MS_BIND | linux.MS_REC)
            except OSError:
                # An entry nobody may bind (a file being deleted, a directory without access) is simply not there.
                Path(path).rmdir() if stat.S_ISDIR(info.st_mode) else Path(path).unlink()


def _split(directory: str, split: set[str]) -> None:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mode = stat.S_IMODE(Path(directory).stat().st_mode)
    linux.mount("sampan", directory, "tmpfs", 0, f"mode={mode:o}")
    _bind_children(f"/proc/self/fd/{fd}", directory)
    os.close(fd)
    split.add(directory)


def _place(fd: int, mount: Mount, split: set[str]) -> None:
    target = os.path.realpath(mount.target)
    is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    path = Path(target)
    if not path.exists():
        ancestor = path.parent
        while not ancestor.is_dir():
            ancestor = ancestor.parent
        # A directory made below one of our tmpfs is ours as well; anything else is the host's and must not be written.
        if str(ancestor) not in split:
            _split(str(ancestor), split)
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_directory:
            path.mkdir()
        else:
            path.touch()
        for parent in path.parents:
            if parent == ancestor:
                break
            split.add(str(parent))
    linux.mount(f"/proc/self/fd/{fd}", target, None, linux.MS_BIND | linux.MS_REC)
    if mount.readonly:
        # A remount may not drop flags the original mount has (they are locked inside a user namespace).
        kept = os.statvfs(target).f_flag & (linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | 1024 | 2048)
        linux.mount("none", target, None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | kept)
    if is_directory:
        split.add(target)  # a mount path below a volume is made in the volume, as Kubernetes does
