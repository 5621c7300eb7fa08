"""`sampan backup` and `sampan restore`: of a database this process is bound to, or of one in the running system.

A binding of this process (environment, or `$SERVICE_BINDING_ROOT`) comes first. Without one the running cluster is
asked: its Secret says how the database is reached, its Service at which address, its volume where a file lies.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from sampan.cli.failure import Failure
from sampan.cli.process import ClusterProcess
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.https import HttpsTransport
from sampan.kube.objects import Object, name_of, namespace_of
from sampan.model import Database
from sampan.service import bindings
from sampan.service.bindings import Binding, BindingError

_MOUNT: Final = "/data/"  # where the volume `data` is in every pod


def backup(arguments: argparse.Namespace) -> int:
    return asyncio.run(_guarded(_backup(arguments)))


def restore(arguments: argparse.Namespace) -> int:
    return asyncio.run(_guarded(_restore(arguments)))


async def _guarded(work: Any) -> int:
    from sampan.model.data import DatabaseError
    from sampan.service.data.backup import BackupError

    try:
        await work
    except (BackupError, DatabaseError, BindingError, ApiError, OSError) as error:
        raise Failure(str(error)) from None
    return 0


async def _backup(arguments: argparse.Namespace) -> None:
    from sampan.service.data.backup import back_up

    binding = await find_binding(arguments.name, Path(arguments.directory))
    remote = "://" in arguments.to
    with tempfile.TemporaryDirectory(prefix="sampan-backup-") as made:
        path, manifest = await back_up(arguments.name, binding, Path(made) if remote else Path(arguments.to))
        place = str(path)
        if remote:
            from sampan.service.data.backup_store import Store

            store = Store(arguments.to)
            place = await store.put(path)
            for old in await store.prune(arguments.name, arguments.keep):
                print(f"deleted {old}")
            await store.close()
        else:
            from sampan.service.data.backup_store import prune

            for gone in prune(Path(arguments.to), arguments.name, arguments.keep):
                print(f"deleted {gone}")
    rows = sum(table.rows for table in manifest.tables.values())
    print(f"{place}: {len(manifest.tables)} tables, {rows} rows, {manifest.size} bytes, sha256 {manifest.sha256[:16]}")


async def _restore(arguments: argparse.Namespace) -> None:
    from sampan.service.data.backup import restore as restore_

    binding = await find_binding(arguments.name, Path(arguments.directory), administrator=True)
    with tempfile.TemporaryDirectory(prefix="sampan-restore-") as made:
        path = Path(arguments.file)
        if "://" in arguments.file:
            from sampan.service.data.backup_store import fetch

            path = await fetch(arguments.file, Path(made))
        manifest = await restore_(arguments.name, binding, path, replace=arguments.replace, verify=arguments.verify)
    done = "proved in a scratch database" if arguments.verify else "restored"
    rows = sum(table.rows for table in manifest.tables.values())
    print(
        f"database {arguments.name}: {done} as of {manifest.created:%Y-%m-%d %H:%M:%S} UTC, "
        f"revision {', '.join(manifest.revision) or 'none'}, {len(manifest.tables)} tables, {rows} rows"
    )


async def find_binding(name: str, state: Path, *, administrator: bool = False) -> Binding:
    """The binding of database `name`; `administrator`: as who may make databases, where the system has a password.

    Failure when there is neither a binding nor a cluster that has one.
    """
    handle = Database(name)
    try:
        return bindings.find(handle.directory, handle.variable)
    except BindingError as error:
        missing = str(error)
    process = ClusterProcess(state)
    if process.pid() is None or not process.kubeconfig.exists():
        raise Failure(f"{missing}; and no cluster runs in {state}", 2)
    client = Client(HttpsTransport.from_kubeconfig(process.kubeconfig))
    try:
        return await _from_cluster(client, handle, administrator)
    finally:
        await client.transport.close()


async def _from_cluster(client: Client, handle: Database, administrator: bool) -> Binding:
    wanted = f"binding-{handle.directory}"
    secrets = [one for one in (await client.list(kinds.SECRET)).items if name_of(one) == wanted]
    if not secrets:
        raise Failure(f"the cluster has no database {handle.name!r}: there is no Secret {wanted}", 2)
    namespace, values = namespace_of(secrets[0]) or "", _values(secrets[0])
    kind, uri = values.pop("type", ""), values.pop("uri", "")
    if kind == "sqlite":
        return Binding(handle.directory, kind, await _file(client, namespace, uri), {})
    parts = urlsplit(uri)
    host = parts.hostname or ""
    try:
        service = await client.get(kinds.SERVICE, host.partition(".")[0], namespace)
        address = service["spec"].get("clusterIP") or host
    except ApiError:
        address = host
    user = parts.netloc.rpartition("@")[0]
    if administrator and kind == "mysql":
        try:
            own = _values(await client.get(kinds.SECRET, f"server-{host.partition('.')[0]}", namespace))
            user = f"root:{quote(own['root-password'], safe='')}"
        except (ApiError, KeyError):
            pass  # not a server of ours; its user may do what it may
    port = f":{parts.port}" if parts.port else ""
    return Binding(handle.directory, kind, parts._replace(netloc=f"{user}@{address}{port}").geturl(), {})


async def _file(client: Client, namespace: str, uri: str) -> str:
    """Where the file of a pod's volume lies on this machine."""
    path = uri.removeprefix("sqlite:///")
    claim = await client.get(kinds.PERSISTENT_VOLUME_CLAIM, "data", namespace)
    volume = await client.get(kinds.PERSISTENT_VOLUME, claim["spec"].get("volumeName", ""))
    root = (volume["spec"].get("hostPath") or {}).get("path", "")
    if not root or not path.startswith(_MOUNT):
        raise Failure(f"the file {path} lies on a volume that is not on this machine")
    return f"sqlite:///{os.path.join(root, path.removeprefix(_MOUNT))}"  # noqa: PTH118


def _values(secret: Object) -> dict[str, str]:
    return {key: b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
