"""What the API server asks of the kubelet: the pod subresources that are streams, and measured usage.

The API server speaks HTTP and WebSocket/SPDY to clients; the kubelet knows processes and files. This is the seam.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol

from msgspec import Struct


class LogOptions(Struct, frozen=True):
    """Query of `GET pods/NAME/log`, as `v1.PodLogOptions`."""

    container: str | None = None
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None


class Usage(Struct, frozen=True):
    """Measured use of one container: CPU in cores averaged over `window` seconds, resident memory in bytes."""

    cpu: float
    memory: int
    timestamp: datetime
    window: float


class ExecStreams(Protocol):
    """The far end of an exec or attach session. Reads return b"" at end of input."""

    async def read_stdin(self) -> bytes: ...

    async def write_stdout(self, data: bytes) -> None: ...

    async def write_stderr(self, data: bytes) -> None: ...

    async def read_resize(self) -> tuple[int, int]:
        """The next terminal size as (columns, rows); waits until there is one."""


class ExecRequest(Struct, frozen=True):
    """Query of `pods/NAME/exec` and `/attach`. `command` is empty for attach."""

    container: str | None
    command: tuple[str, ...] = ()
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class ByteStream(Protocol):
    """One forwarded connection into a pod."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...

    async def close(self) -> None: ...


class NodeRuntime(Protocol):
    """The running containers of this machine. Every method raises `ApiError` (404 no such container, 400 a container
    that must be named or is not running) before it yields or writes anything."""

    def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]: ...

    async def exec(self, namespace: str, pod: str, request: ExecRequest, streams: ExecStreams) -> int:
        """Run a command in a container's namespaces and environment until it ends; its exit code."""

    async def attach(self, namespace: str, pod: str, request: ExecRequest, streams: ExecStreams) -> int: ...

    async def dial(self, namespace: str, pod: str, port: int) -> ByteStream: ...

    def usage(self) -> dict[tuple[str, str], dict[str, Usage]]:
        """Usage of every running container: (namespace, pod name) -> container name -> usage."""
