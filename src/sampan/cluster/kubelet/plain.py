"""Containers where the system forbids namespaces: volumes appear under a directory of the pod instead of their mount
paths, and environment variables that name such a path name that place."""

from __future__ import annotations

from pathlib import Path

from sampan.cluster.kubelet.mounts import Mount


def hosts_mount(pod_directory: Path) -> Mount:
    return Mount(str(pod_directory / "etc-hosts"), "/etc/hosts")


class Moved:
    """Links every mount below `root` and says where a path at, below or above a mount path is now."""

    def __init__(self, mounts: list[Mount], root: Path) -> None:
        self._root = root
        self._targets = [mount.target for mount in mounts]
        for mount in mounts:
            link = root / mount.target.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(mount.source)

    def path(self, value: str) -> str:
        path = value.rstrip("/")
        if not path.startswith("/"):
            return value
        below = any(path == t or path.startswith(t + "/") or t.startswith(path + "/") for t in self._targets)
        return f"{self._root}{path}" if below else value

    def environment(self, values: dict[str, str]) -> dict[str, str]:
        # PATH and HOME stay: only a variable that names one absolute path can mean a volume.
        return {key: value if key in ("PATH", "HOME") else self.path(value) for key, value in values.items()}
