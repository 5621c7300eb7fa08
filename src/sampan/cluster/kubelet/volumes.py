"""A pod's volumes as directories of the host, below DIR/pods/UID/volumes, ready to be bound into its containers.

ConfigMaps, Secrets, projections and the downward API are laid out as Kubernetes does: files are symlinks through
`..data`, which one rename moves to the next version, so that a reader sees all of the old or all of the new.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sampan.cluster.kubelet import environment
from sampan.cluster.kubelet.identity import own_volume, used
from sampan.cluster.kubelet.mounts import Mount
from sampan.cluster.kubelet.source import ConfigError, Source
from sampan.kube.objects import Object
from sampan.kube.quantity import to_bytes

Files = dict[str, tuple[bytes, int]]
"""Relative path -> (content, mode)."""

PROJECTED = ("configMap", "secret", "projected", "downwardAPI")
DEFAULT_MODE = 0o644
ACCESS_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
TOKEN_REFRESH = 2400.0
SHARED = "/dev/shm"  # noqa: S108 - where POSIX has it


class Volumes:
    """The volumes of one pod."""

    def __init__(self, directory: Path, source: Source) -> None:
        self.directory = directory / "volumes"
        self._access = directory / "access"
        self._source = source
        self._paths: dict[str, Path] = {}
        uid = hashlib.sha256(str(directory).encode()).hexdigest()[:20]
        self._memory = Path(SHARED) / f"sampan-{os.getuid()}-{uid}"

    async def prepare(self, pod: Object) -> None:
        """Make every volume. Raises ConfigError or OSError; may be called again."""
        for volume in pod["spec"].get("volumes") or ():
            self._paths[volume["name"]] = path = await self._prepare(pod, volume)
            if not volume.get("hostPath"):
                own_volume(path, pod)

    async def update(self, pod: Object) -> None:
        """Write new contents of volumes that follow other objects."""
        for volume in pod["spec"].get("volumes") or ():
            if any(volume.get(kind) is not None for kind in PROJECTED):
                await self._prepare(pod, volume)

    async def prepare_access(self, pod: Object, authority: Path) -> None:
        """What an in-cluster client reads: token, CA and namespace, at its usual place in every container. Left out
        when the pod declines it, or its service account has no token to give."""
        spec = pod["spec"]
        if spec.get("automountServiceAccountToken") is False:
            return
        account = spec.get("serviceAccountName") or "default"
        namespace = pod["metadata"]["namespace"]
        try:
            ca = authority.read_bytes()
            token = await self._source.token(namespace, account, "", TOKEN_SECONDS, pod)
        except (ConfigError, OSError):
            return
        files = {"token": (token.encode(), 0o644), "ca.crt": (ca, 0o644), "namespace": (namespace.encode(), 0o644)}
        write_atomically(self._access, files)

    def mounts(self, container: Object, values: dict[str, str]) -> list[Mount]:
        """Where the container has them. Raises ConfigError for a bad subPath."""
        found = []
        for entry in container.get("volumeMounts") or ():
            path = self._paths.get(entry["name"])
            if path is None:
                raise ConfigError(f'volume "{entry["name"]}" is not in the pod')
            sub = entry.get("subPath") or environment.expand(entry.get("subPathExpr") or "", values)
            source = path / sub if sub else path
            if sub:
                if ".." in Path(sub).parts or Path(sub).is_absolute():
                    raise ConfigError(f'subPath "{sub}" leaves the volume')
                if not source.exists():
                    source.mkdir(parents=True)
                source = source.resolve()
            readonly = bool(entry.get("readOnly")) or (path / "..data").is_symlink()
            found.append(Mount(str(source), "/" + entry["mountPath"].strip("/"), readonly))
        if self._access.exists() and not any(mount.target == ACCESS_PATH for mount in found):
            found.append(Mount(str(self._access), ACCESS_PATH, True))
        return found

    def shared_memory(self, pod: Object, taken: set[str]) -> list[Mount]:
        """The pod's own /dev/shm, which all its containers share and which ends with it: what a killed database leaves
        in there would else stay on the machine."""
        if SHARED in taken or pod["spec"].get("hostIPC") or not os.access(SHARED, os.W_OK):
            return []
        path = self._memory / ".shm"
        self._memory.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(exist_ok=True)
        path.chmod(0o1777)
        return [Mount(str(path), SHARED)]

    def overfull(self, pod: Object) -> str:
        """Why the pod is to be evicted, in the kubelet's words; empty if it is not."""
        for volume in pod["spec"].get("volumes") or ():
            limit = (volume.get("emptyDir") or {}).get("sizeLimit")
            path = self._paths.get(volume["name"])
            if limit and path is not None and used(path) > to_bytes(str(limit)) > 0:
                return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
        return ""

    def remove_memory(self) -> None:
        """What lies in memory does not outlive the node, as after a reboot."""
        shutil.rmtree(self._memory, ignore_errors=True)

    def remove(self) -> None:
        self.remove_memory()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _prepare(self, pod: Object, volume: Object) -> Path:
        path: Path = self.directory / volume["name"]
        namespace = pod["metadata"]["namespace"]
        if "emptyDir" in volume:
            if (volume["emptyDir"] or {}).get("medium") == "Memory" and os.access(SHARED, os.W_OK):
                path = self._memory / volume["name"]
                self._memory.mkdir(mode=0o700, exist_ok=True)
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
            return path
        if host := volume.get("hostPath"):
            return _host_path(host["path"], host.get("type") or "")
        if claim := volume.get("persistentVolumeClaim"):
            path = Path(await self._source.claim_path(namespace, claim["claimName"]))
            path.mkdir(parents=True, exist_ok=True)
            return path
        if volume.get("ephemeral"):
            path = Path(await self._source.claim_path(namespace, f"{pod['metadata']['name']}-{volume['name']}"))
            path.mkdir(parents=True, exist_ok=True)
            return path
        if any(volume.get(kind) is not None for kind in PROJECTED):
            write_atomically(path, await self._files(pod, volume))
            return path
        kind = next((key for key in volume if key != "name"), "emptyDir")
        if kind == "emptyDir":
            path.mkdir(parents=True, exist_ok=True)
            return path
        raise ConfigError(f'volume "{volume["name"]}": {kind} volumes cannot be mounted on this machine')

    async def _files(self, pod: Object, volume: Object) -> Files:
        if projected := volume.get("projected"):
            mode = projected.get("defaultMode", DEFAULT_MODE)
            files: Files = {}
            for part in projected.get("sources") or ():
                files |= await self._part(pod, part, mode)
            return files
        kind = next(key for key in PROJECTED if volume.get(key) is not None)
        return await self._part(pod, volume, volume[kind].get("defaultMode", DEFAULT_MODE))

    async def _part(self, pod: Object, part: Object, mode: int) -> Files:
        namespace = pod["metadata"]["namespace"]
        for key, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if (spec := part.get(key)) is not None:
                name = spec.get("name") or spec.get("secretName")
                optional = bool(spec.get("optional"))
                data = await self._source.data(kind, namespace, name, optional)
                return _select(data or {}, spec.get("items"), mode, optional, f'{kind} "{name}"')
        if (spec := part.get("downwardAPI")) is not None:
            return {item["path"]: (_downward(pod, item), item.get("mode") or mode) for item in spec.get("items") or ()}
        if token := part.get("serviceAccountToken"):
            account = pod["spec"].get("serviceAccountName") or "default"
            seconds = token.get("expirationSeconds") or 3600
            text = await self._source.token(namespace, account, token.get("audience") or "", seconds, pod)
            return {token["path"]: (text.encode(), 0o600)}
        raise ConfigError(f"projected source {', '.join(part)} is not known here")


def _downward(pod: Object, item: dict[str, Any]) -> bytes:
    if reference := item.get("fieldRef"):
        return environment.field_value(pod, reference["fieldPath"]).encode()
    return environment.resource_value(pod, item["resourceFieldRef"], None).encode()


def _select(data: dict[str, bytes], items: list[Object] | None, mode: int, optional: bool, what: str) -> Files:
    if not items:
        return {key: (value, mode) for key, value in data.items()}
    files: Files = {}
    for item in items:
        if item["key"] in data:
            files[item["path"]] = (data[item["key"]], item.get("mode") or mode)
        elif not optional:
            raise ConfigError(f'{what} has no key "{item["key"]}"')
    return files


def _host_path(path: str, kind: str) -> Path:
    target = Path(path)
    if kind == "DirectoryOrCreate" or (kind == "" and not target.exists()):
        target.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    if not target.exists() or (kind == "Directory" and not target.is_dir()) or (kind == "File" and target.is_dir()):
        raise ConfigError(f"hostPath type check failed: {path} is not a {kind or 'path'}")
    return target


def write_atomically(directory: Path, files: Files) -> bool:
    """Make `directory` hold exactly `files`, all at once; False if it already does."""
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f'path "{name}" leaves the volume')
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    data = directory / "..data"
    if data.is_symlink() and _same(data.resolve(), files):
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    fresh.chmod(0o755)
    for name, (content, mode) in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        path.chmod(mode)
    old = data.resolve() if data.is_symlink() else None
    beside = directory / "..data_tmp"
    beside.unlink(missing_ok=True)
    beside.symlink_to(fresh.name)
    beside.replace(data)
    visible = {Path(name).parts[0] for name in files}
    for name in visible:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    for entry in list(directory.iterdir()):
        if not entry.name.startswith("..") and entry.name not in visible:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return True


def _same(directory: Path, files: Files) -> bool:
    present = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    return present == set(files) and all((directory / name).read_bytes() == files[name][0] for name in files)
