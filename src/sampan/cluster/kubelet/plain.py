"""Containers where the system forbids namespaces: volumes appear under a directory of the pod instead of their mount
paths, and environment variables that name such a path name that place."""

from __future__ import annotations

from pathlib import Path

from sampan.cluster.kubelet.mounts import Mount


def hosts_mount(pod_directory: Path) -> Mount:
    return Mount(str(pod_directory / "etc-hosts"), "/etc/hosts")


def translate(mounts: list[Mount], values: dict[str, str], root: Path) -> dict[str, str]:
    """Link every mount below `root`; the environment with paths at, below or above a mount path moved there."""
    for mount in mounts:
        link = root / mount.target.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(mount.source)
    targets = [mount.target for mount in mounts]

    def moved(value: str) -> str:
        if not value.startswith("/") or value == "/":
            return value
        path = value.rstrip("/")
        if any(path == t or path.startswith(t + "/") or t.startswith(path + "/") for t in targets):
            return f"{root}{path}"
        return value

    # PATH, HOME and the like stay: only a variable that names one absolute path can mean a volume.
    return {key: value if key in ("PATH", "HOME") else moved(value) for key, value in values.items()}
