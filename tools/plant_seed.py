"""Make `src/sampan/cluster/apiserver/seed.json`: the objects of a new cluster, as the API server makes them.

    python -m tools.plant_seed

To be run when the bootstrap objects change, or what the pipeline makes of them.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from sampan.cluster.apiserver import bootstrap, seed
from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store


async def made(directory: Path, pki: Pki) -> bytes:
    """The text of the file, by way of a store in `directory`."""
    store = Store.open(directory / "seed.db")
    server = ApiServer(store, pki)
    await bootstrap.complete(server)
    text = seed.harvest(store)
    await server.stop()
    await store.close()
    return text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        keys = Pki(Path(scratch) / "pki")
        keys.ensure()
        seed.FILE.write_bytes(asyncio.run(made(Path(scratch), keys)))
