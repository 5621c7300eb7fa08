"""`sampan issuer`, `sampan token` and `sampan audit`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

from sampan.cli.failure import Failure

KEYS = "issuer.json"
DEFAULT_ISSUER = "http://127.0.0.1:9400"


def _url() -> str:
    return os.environ.get("SAMPAN_DEV_ISSUER", DEFAULT_ISSUER).rstrip("/")


def issuer(arguments: argparse.Namespace) -> int:
    """Run the development issuer until told to stop."""
    try:
        from sampan.service.security.issuer import KeyFile, NotLoopback, serve
    except ImportError as error:
        raise Failure(f"it needs more packages: pip install 'sampan[service,security]' ({error})", 2) from error
    host = arguments.host or urlsplit(_url()).hostname or "127.0.0.1"
    port = arguments.port if arguments.port is not None else urlsplit(_url()).port or 9400

    async def run() -> None:
        server = await serve(host, port, KeyFile(Path(arguments.directory, KEYS)))
        print(f"development issuer at {server.url}; it gives anybody any name", flush=True)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        following = [_until_down(Path(arguments.directory), stop)] if arguments.with_cluster else []
        tasks = [asyncio.create_task(one) for one in following]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await server.stop()

    try:
        asyncio.run(run())
    except NotLoopback as error:
        raise Failure(str(error), 2) from error
    except (OSError, RuntimeError) as error:
        raise Failure(f"it cannot listen on {host}:{port}: {error}") from error
    return 0


async def _until_down(directory: Path, stop: asyncio.Event) -> None:
    """Set `stop` when the cluster of `directory`, which is perhaps only starting, runs no more."""
    from sampan.cli.process import ClusterProcess

    process, patience = ClusterProcess(directory), 60
    while patience:
        running = process.pid() is not None
        patience = 4 if running else patience - 1  # two seconds: a lock may be passed on
        await asyncio.sleep(0.5)
    stop.set()


def token(arguments: argparse.Namespace) -> int:
    """Print a token of the development issuer."""
    try:
        from sampan.service.security.issuer import KeyFile
    except ImportError as error:
        raise Failure(f"it needs more packages: pip install 'sampan[security]' ({error})", 2) from error
    keys = KeyFile(Path(arguments.directory, KEYS))
    url = (arguments.issuer or keys.url or _url()).rstrip("/")
    scope, audience = " ".join(arguments.scope), arguments.audience or ["sampan"]
    print(keys.sign(url, arguments.subject, audience, scope, seconds=arguments.seconds))
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Verify an audit log: 0 when it is whole, 1 with the first bad line."""
    from sampan.service.security.chain import Head, files, verify

    path = Path(arguments.file)
    if not files(path):
        raise Failure(f"there is no audit log {path}", 2)
    try:
        head = Head.parse(arguments.head) if arguments.head else None
        key = Path(arguments.key_file).read_bytes().strip() if arguments.key_file else b""
    except (OSError, ValueError) as error:
        raise Failure(str(error), 2) from error
    report = verify(path, key, head)
    for note in report.notes:
        print(note)
    if report.fault:
        print(f"not whole: {report.fault}", file=sys.stderr)
        return 1
    print(f"whole: {report.lines} entries, head {report.head.text()}")
    return 0
