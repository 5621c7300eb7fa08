"""The books of the shop's services, read from their own tables, and what must hold between them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.https import HttpsTransport
from tests.system.harness import System

Pods = Callable[[str], Awaitable[list[Any]]]
_QUERIES = {
    "orders": ("orders", "SELECT id, idempotency_key, status, total_cents FROM orders"),
    "reservations": ("inventory", "SELECT order_id, status, `lines` FROM reservations"),
    "payments": ("payments", "SELECT order_id, status, amount_cents FROM payments"),
    "stock": ("inventory", "SELECT id, stock FROM products"),
}
_SETTLE_SECONDS = 90.0


@dataclass
class Books:
    """Rows as tuples, in the order of the columns of `_QUERIES`; `problems` is filled by the audit."""

    orders: Sequence[tuple[Any, ...]]
    reservations: Sequence[tuple[Any, ...]]
    payments: Sequence[tuple[Any, ...]]
    stock: dict[int, int]
    settled_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @staticmethod
    async def read(pods: Pods, system: System) -> Books:
        rows = {name: await _rows(pods, system, *query) for name, query in _QUERIES.items()}
        return Books(rows["orders"], rows["reservations"], rows["payments"], dict(rows["stock"]))


async def _rows(pods: Pods, system: System, database: str, query: str) -> list[tuple[Any, ...]]:
    """By the binding of the service, at the address of the server's pod, or from the file on the volume."""
    import base64

    client = Client(HttpsTransport.from_kubeconfig(system.directory / ".sampan/kubeconfig"))
    try:
        secret = await client.get(kinds.SECRET, f"binding-database-{database}", "shop")
    finally:
        await client.close()
    uri = urlsplit(base64.b64decode(secret["data"]["uri"]).decode())
    if uri.scheme == "sqlite":
        return await asyncio.to_thread(_sqlite, system, Path(uri.path).name, query)
    import asyncmy

    (pod,) = await pods(f"{database}-db")
    connection = await asyncmy.connect(
        host=pod["status"]["podIP"],
        port=uri.port or 3306,
        user=unquote(uri.username or ""),
        password=unquote(uri.password or ""),
        database=uri.path.strip("/"),
    )
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(query)
            return list(await cursor.fetchall())
    finally:
        connection.close()


def _sqlite(system: System, name: str, query: str) -> list[tuple[Any, ...]]:
    import sqlite3

    (file,) = (system.directory / ".sampan/volumes").rglob(name)
    connection = sqlite3.connect(file)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def audit(read: Callable[[], Awaitable[Books]], before: Books, promised: Mapping[str, list[int]]) -> Books:
    """The books once every new order is settled, or 90 s have passed, with what is wrong in them."""
    old, began = {row[0] for row in before.orders}, time.monotonic()
    while True:
        books = await read()
        new = [row for row in books.orders if row[0] not in old]
        pending = [row[0] for row in new if row[2] == "pending"]
        waited = time.monotonic() - began
        if not pending or waited > _SETTLE_SECONDS:
            break
        await asyncio.sleep(0.5)
    books.settled_seconds = waited
    books.orders = new
    books.reservations = [row for row in books.reservations if row[0] not in old]
    books.payments = [row for row in books.payments if row[0] not in old]
    books.problems = [*_of_promises(books, promised), *_between(books), *_of_stock(before, books)]
    return books


def _of_promises(books: Books, promised: Mapping[str, list[int]]) -> list[str]:
    """Every acknowledged order is there, as the one that was promised, and confirmed."""
    problems = []
    by_key: dict[str, list[tuple[Any, ...]]] = {}
    for row in books.orders:
        by_key.setdefault(row[1], []).append(row)
    for key, ids in promised.items():
        rows = by_key.get(key, [])
        if len(set(ids)) > 1 or len(rows) > 1:
            problems.append(f"doubled: key {key} was promised {sorted(set(ids))}, orders {[row[0] for row in rows]}")
        elif ids and [row[0] for row in rows] != ids[:1]:
            problems.append(f"lost: order {ids[0]} of key {key} was acknowledged; there is {rows or 'nothing'}")
    problems += [f"order {row[0]} is {row[2]}" for row in books.orders if row[2] != "confirmed"]
    problems += [f"order {row[0]} was ordered by nobody" for row in books.orders if row[1] not in promised]
    return problems


def _between(books: Books) -> list[str]:
    """Each order has one reservation and one payment of its amount, and there are no others."""
    problems = []
    totals = {row[0]: row[3] for row in books.orders}
    for what, rows, good in (("reservation", books.reservations, "reserved"), ("payment", books.payments, "taken")):
        counts = Counter(row[0] for row in rows)
        problems += [f"order {order} has {counts[order]} {what}s" for order in totals if counts[order] != 1]
        problems += [f"a {what} of order {order}, which there is not" for order in counts if order not in totals]
        problems += [f"the {what} of order {row[0]} is {row[1]}" for row in rows if row[1] != good]
    problems += [
        f"order {row[0]} of {totals[row[0]]} was paid with {row[2]}"
        for row in books.payments
        if row[0] in totals and row[2] != totals[row[0]]
    ]
    return problems


def _of_stock(before: Books, books: Books) -> list[str]:
    """What is gone from the shelf is what was reserved: an effect that came twice would show here."""
    import json

    gone: Counter[int] = Counter()
    for _, status, lines in books.reservations:
        if status == "reserved":
            for line in json.loads(lines):
                gone[line["product_id"]] += line["quantity"]
    return [
        f"product {product}: {was - books.stock[product]} left the shelf, {gone[product]} were reserved"
        for product, was in before.stock.items()
        if was - books.stock[product] != gone[product]
    ]
