"""A new store is filled with what the pipeline would have made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.apiserver import bootstrap, seed
from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Entry, Store
from sampan.kube.objects import Object
from tools.plant_seed import made

SETTINGS = {"service_cidr": "127.99.128.0/17", "port": 7443}


async def test_the_file_is_what_the_pipeline_makes(tmp_path: Path, keys: Pki) -> None:
    assert await made(tmp_path, keys) == seed.FILE.read_bytes(), "python -m tools.plant_seed writes it anew"


def objects(store: Store) -> Iterator[tuple[str, str, Any]]:
    """Every object without what is made for it alone, which must be there."""
    for table in sorted(store.tables(), key=lambda table: table.name):
        for entry in table.scan():
            metadata = dict(entry.object["metadata"])
            assert len(metadata.pop("uid")) == 36
            assert metadata.pop("creationTimestamp").endswith("Z")
            assert metadata.pop("resourceVersion") == str(entry.revision)
            metadata["managedFields"] = [
                {name: value for name, value in owned.items() if name != "time" or not value.endswith("Z")}
                for owned in metadata["managedFields"]
            ]
            yield table.name, entry.key, {**entry.object, "metadata": metadata}


async def test_a_planted_store_is_as_one_the_pipeline_filled(tmp_path: Path, keys: Pki) -> None:
    stores = [Store.open(tmp_path / name) for name in ("planted", "filled")]
    for store, fill in zip(stores, (bootstrap.bootstrap, bootstrap.complete), strict=True):
        server = ApiServer(store, keys, SETTINGS)
        await fill(server)
        await server.stop()
    planted, filled = (list(objects(store)) for store in stores)
    assert planted == filled
    uids = {entry.object["metadata"]["uid"] for table in stores[0].tables() for entry in table.scan()}
    assert len(uids) == len(planted)
    for store in stores:
        await store.close()


def given(obj: Object, _: Entry | None) -> Object:
    return obj


@pytest.mark.parametrize("gone", [("/namespaces", "kube-public"), ("/services", "default/kubernetes")])
async def test_what_a_broken_off_first_start_left_out_is_made_by_the_next(
    tmp_path: Path, keys: Pki, gone: tuple[str, str]
) -> None:
    store = Store.open(tmp_path / "cluster.db")
    for grain in seed.grains():
        if (grain.table, grain.key) != gone:
            await store.write(grain.table, grain.key, partial(given, grain.object))
    server = ApiServer(store, keys, SETTINGS)
    await server.start()
    assert store.table(gone[0]).get(gone[1]) is not None
    assert sum(table.count() for table in store.tables()) == len(seed.grains())
    await server.stop()
    await store.close()
