"""Binds a Database."""

from __future__ import annotations

import os

from sampan.model import Database
from sampan.service.bindings import Binding
from sampan.service.data.database import SqlDatabase
from sampan.service.process import Process


def bind(process: Process, handle: Database) -> None:
    read_only = "read_write" not in process.accesses(handle)
    binding = process.find(handle)
    add_replicas(binding, handle.variable)
    for replica in replica_uris(binding):
        process.redactor.add(Binding("", "", replica).secrets())
    database = SqlDatabase(handle.name, binding, read_only=read_only, pool=handle.pool, registry=process.registry)
    if handle.migrations:
        from sampan.service.migrate import Expected

        database.expected = Expected(handle.migrations, handle.name)
    if os.environ.get("SAMPAN_ENVIRONMENT") == "dev":
        from sampan.service.data.reports import Reports

        database.core.observer.reports = Reports(handle.name, database.core, process.registry)
    process.databases[handle.name] = database
    handle.bind(database)
    process.add_resource(f"database {handle.name}", database, lambda: True)


def replica_uris(binding: Binding) -> list[str]:
    return [uri for key, uri in sorted(binding.values.items()) if key.startswith("replica-uri")]


def add_replicas(binding: Binding, variable: str) -> None:
    """SAMPAN_DATABASE_<NAME>_REPLICA_URI names replicas, separated by blanks, in place of the binding's."""
    text = os.environ.get(variable.removesuffix("_URI") + "_REPLICA_URI", "")
    if text:
        for key in [key for key in binding.values if key.startswith("replica-uri")]:
            del binding.values[key]
        binding.values.update({f"replica-uri-{number}": uri for number, uri in enumerate(text.split(), 1)})
