"""Durable objects with one revision sequence: a SQLite log beneath, a cache and watch windows in memory."""

from sampan.cluster.store.store import Entry, Event, Remove, Store, Table

__all__ = ["Entry", "Event", "Remove", "Store", "Table"]
