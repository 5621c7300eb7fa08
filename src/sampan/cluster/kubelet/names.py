"""Names of services for a Python program that has no /etc/hosts of its own: the file is asked before the system is."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any


class Hosts:
    """A file in the format of /etc/hosts, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._names: dict[str, str] = {}

    def address(self, name: str) -> str | None:
        """The first IPv4 address of `name`."""
        try:
            about = self._path.stat()
            stamp = (about.st_mtime_ns, about.st_size)
            if stamp != self._stamp:
                self._names = _parse(self._path.read_text())
                self._stamp = stamp
        except OSError:
            return None
        return self._names.get(name.rstrip(".").lower())


def _parse(text: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for line in text.splitlines():
        address, *rest = line.partition("#")[0].split() or [""]
        if ":" not in address:
            for name in rest:
                names.setdefault(name.lower(), address)
    return names


def install(path: str) -> None:
    """Make `socket` of this process resolve by the file first, and with it asyncio and what is built on it. uvloop
    resolves beside Python and is hidden; programs fall back on asyncio's own loop."""
    hosts = Hosts(Path(path))
    system = socket.getaddrinfo
    system_by_name = socket.gethostbyname

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        known = hosts.address(name) if isinstance(name, str) else None
        return system(known or host, *arguments, **options)

    def gethostbyname(host: str) -> str:
        return hosts.address(host) or system_by_name(host)

    socket.getaddrinfo = getaddrinfo
    socket.gethostbyname = gethostbyname
    sys.modules["uvloop"] = None  # type: ignore[assignment]
