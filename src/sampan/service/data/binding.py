"""Binds a Database."""

from __future__ import annotations

from sampan.model import Database
from sampan.service.data.database import SqlDatabase
from sampan.service.process import Process


def bind(process: Process, handle: Database) -> None:
    read_only = "read_write" not in process.accesses(handle)
    database = SqlDatabase(handle.name, process.find(handle), read_only=read_only)
    process.databases[handle.name] = database
    handle.bind(database)
    process.add_resource(f"database {handle.name}", database, lambda: True)
