"""An API server alone, for those who try it: `python -m sampan.cluster.apiserver --directory DIR --port 0`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store


async def run(directory: Path, port: int) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store.open(directory / "cluster.db")
    pki = Pki(directory / "pki")
    pki.ensure()
    server = ApiServer(store, pki)
    await server.start()
    taken = await server.serve("127.0.0.1", port)
    server.write_kubeconfig(directory / "kubeconfig", f"https://127.0.0.1:{taken}")
    sys.stdout.write(f"KUBECONFIG={directory / 'kubeconfig'}\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop()
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sampan.cluster.apiserver")
    parser.add_argument("--directory", type=Path, required=True, help="where the state lives")
    parser.add_argument("--port", type=int, default=0, help="0 for any free port")
    options = parser.parse_args()
    asyncio.run(run(options.directory, options.port))


if __name__ == "__main__":
    main()
