"""What a new store is given at once: the objects of `bootstrap.py` as the pipeline makes them, made beforehand.

Taking 35 objects through the pipeline was a seventh of the time until the API answers: schemas are read for it,
defaults, rules and owners of fields found. The outcome is always the same but for identity, time and the address of
the Service, so it is kept in `seed.json`, written by `python -m tools.plant_seed`; a test holds it to the pipeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sampan.cluster.store import Store
from sampan.kube.objects import Object, new_uid, now

FILE = Path(__file__).with_name("seed.json")


class Grain(msgspec.Struct):
    """One object, without uid, times and resourceVersion; the Service `kubernetes` at 10.96.0.1 for port 6443."""

    table: str
    key: str
    object: Object


def grains() -> list[Grain]:
    """In the order in which they are made."""
    return msgspec.json.decode(FILE.read_bytes(), type=list[Grain])


async def plant(store: Store, address: str, port: int) -> None:
    """Fill an empty store; `address` and `port` are those of the Service `kubernetes` and of what is behind it."""
    at = now()

    def write(grain: Grain) -> Any:
        obj = grain.object
        obj["metadata"] |= {"uid": new_uid(), "creationTimestamp": at}
        for entry in obj["metadata"].get("managedFields", ()):
            entry["time"] = at
        if obj["kind"] == "Service":
            obj["spec"] |= {"clusterIP": address, "clusterIPs": [address]}
            obj["spec"]["ports"][0]["targetPort"] = port
        return store.write(grain.table, grain.key, lambda _: obj)

    await asyncio.gather(*map(write, grains()))


def harvest(store: Store) -> bytes:
    """The text of `seed.json`, from a store that the pipeline has filled for 10.96.0.0/12."""
    return b"[\n" + b",\n".join(map(msgspec.json.encode, _harvested(store))) + b"\n]\n"


def _harvested(store: Store) -> Iterator[Grain]:
    entries = [(entry.revision, entry, table.name) for table in store.tables() for entry in table.scan()]
    for _, entry, table in sorted(entries, key=lambda each: each[0]):
        obj: Object = msgspec.json.decode(entry.encoded)
        for name in ("uid", "creationTimestamp", "resourceVersion"):
            del obj["metadata"][name]
        for owned in obj["metadata"].get("managedFields", ()):
            del owned["time"]
        yield Grain(table, entry.key, obj)
