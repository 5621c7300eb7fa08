"""Whom a container runs as, and what of the file system it may write: `securityContext`, where we are root to grant it.

The servers among the known images (databases, brokers) are this machine's, not an image's: users of images mean nothing
to them and their entry programs keep templates, so they run as the cluster does.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from sampan.cluster.kubelet.images import Image
    from sampan.kube.objects import Object


class Identity(Struct, frozen=True):
    """Empty or -1: as the cluster."""

    user: int = -1
    group: int = -1
    more_groups: list[int] = []
    readonly_root: bool = False

    def assume(self) -> None:
        """Make the calling process this user. Raises OSError."""
        if self.user < 0 and self.group < 0 and not self.more_groups:
            return
        os.setgroups(self.more_groups)
        group = self.group if self.group >= 0 else 0  # as container runtimes: the root group unless one is named
        os.setresgid(group, group, group)
        if self.user >= 0:
            os.setresuid(self.user, self.user, self.user)


def identity(pod: Object, container: Object, image: Image, *, namespaces: bool) -> Identity:
    """What the pod asks for and this system can give."""
    if image.known and image.entrypoint:
        return Identity()
    asked = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    readonly = namespaces and bool(asked.get("readOnlyRootFilesystem"))
    if os.getuid() != 0:
        return Identity(readonly_root=readonly)
    whole = pod["spec"].get("securityContext") or {}
    more = [*(whole.get("supplementalGroups") or []), *([whole["fsGroup"]] if "fsGroup" in whole else [])]
    return Identity(asked.get("runAsUser", -1), asked.get("runAsGroup", -1), more, readonly)


def own_volume(directory: Path, pod: Object) -> None:
    """Give a volume to the pod's `fsGroup`, where that is ours to do; at once if it has it already."""
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    if group is None or os.getuid() != 0 or directory.stat().st_gid == group:
        return
    for folder, _, files in os.walk(directory):
        for path in [*(Path(folder, name) for name in files), Path(folder)]:
            info = path.lstat()
            os.chown(path, -1, group, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                path.chmod(info.st_mode | stat.S_ISGID | 0o070)
            elif stat.S_ISREG(info.st_mode):
                path.chmod(info.st_mode | 0o060)


def used(directory: Path) -> int:
    """Bytes that the files below occupy."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += Path(folder, name).lstat().st_blocks * 512
            except OSError:
                continue
    return total
