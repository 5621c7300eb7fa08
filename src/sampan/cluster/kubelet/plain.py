"""Containers where the system forbids namespaces. Volumes appear below a directory of the pod, as at their mount paths
below `/`: words of the command line and environment variables that name a mount path name that place instead, and
SAMPAN_VOLUME_ROOT names the directory. Names of services are in the file SAMPAN_HOSTS, which warm Python programs
resolve by (`names`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sampan.cluster.kubelet.mounts import Mount


def hosts_file(pod_directory: Path) -> Path:
    return pod_directory / "etc-hosts"


def resolver_file(pod_directory: Path) -> Path:
    return pod_directory / "etc-resolv"


def own_files(pod_directory: Path, *, resolver: bool) -> list[Mount]:
    """Files of /etc that every container of the pod has of its own."""
    found = [Mount(str(hosts_file(pod_directory)), "/etc/hosts")]
    if resolver:
        found.append(Mount(str(resolver_file(pod_directory)), "/etc/resolv.conf"))
    return found


class Moved:
    """Links every mount below `root` and says where a path at, below or above a mount path is now."""

    def __init__(self, mounts: list[Mount], root: Path) -> None:
        self._root = root
        # Nothing covers what is mounted at its own path: it stays.
        self._targets = {mount.target: mount.source != mount.target for mount in mounts}
        shutil.rmtree(root)  # links of the start before
        root.mkdir()
        for mount in sorted(mounts, key=lambda mount: mount.target.count("/")):
            if mount.source != mount.target:
                link = root / mount.target.lstrip("/")
                link.parent.mkdir(parents=True, exist_ok=True)
                if link.is_symlink():  # inside another volume, left by an earlier start
                    link.unlink()
                link.symlink_to(mount.source)

    def path(self, value: str) -> str:
        """`value` is a path, `--option=PATH`, or something else, which stays."""
        option, equals, path = value.partition("=") if value.startswith("-") else ("", "", value)
        path = path.rstrip("/")
        if not path.startswith("/"):
            return value
        own = [target for target in self._targets if path == target or path.startswith(target + "/")]
        if own:
            moved = self._targets[max(own, key=len)]
        else:
            # The parent of volumes, unless this machine has such a directory, which then is more than they.
            moved = any(target.startswith(path + "/") for target in self._targets) and not Path(path).exists()
        return f"{option}{equals}{self._root}{path}" if moved else value

    def environment(self, values: dict[str, str], hosts: Path) -> dict[str, str]:
        # PATH and HOME stay: only a variable that names one absolute path can mean a volume.
        moved = {key: value if key in ("PATH", "HOME") else self.path(value) for key, value in values.items()}
        return moved | {"SAMPAN_VOLUME_ROOT": str(self._root), "SAMPAN_HOSTS": str(hosts)}
