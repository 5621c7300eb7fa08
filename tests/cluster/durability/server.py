"""The API server that is killed: `python -m tests.cluster.durability.server DIRECTORY COMPACT_EVERY`.

It says `ready` when it serves and `compacting` as a compaction of the log begins, so that one can be met. The port is
kept in the directory, as the cluster keeps its own.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store
from sampan.cluster.store.log import Log


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Telling(Log):
    def _compact(self, revision: int) -> None:
        say("compacting")
        super()._compact(revision)


async def serve(directory: Path, compact_every: int) -> None:
    store = Store.open(directory / "cluster.db", compact_every=compact_every)
    pki = Pki(directory / "pki")
    pki.ensure()
    server = ApiServer(store, pki)
    await server.start()
    record = directory / "port"
    port = await server.serve("127.0.0.1", int(record.read_text()) if record.exists() else 0)
    record.write_text(str(port))
    server.write_kubeconfig(directory / "kubeconfig", f"https://127.0.0.1:{port}")
    say("ready")
    await asyncio.Event().wait()


if __name__ == "__main__":
    # The store makes its log by this name; only what it says is added.
    sys.modules["sampan.cluster.store.store"].Log = Telling  # type: ignore[attr-defined]
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
