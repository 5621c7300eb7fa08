"""A steady load of orders that remembers every promise it was given."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

import aiohttp


class Load:
    """Places `rate` orders a second at `url` until the block ends. `acknowledged`: ids answered 201; `failures`: what
    else was answered. Every order has its own idempotency key and is tried once: a failed request is seen as such."""

    def __init__(self, url: str, rate: float = 20) -> None:
        self.url, self.rate = url, rate
        self.acknowledged: list[int] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        body = {"user_id": 1, "lines": [{"product_id": 1, "quantity": 1}]}
        try:
            headers = {"idempotency-key": uuid.uuid4().hex}
            async with session.post(f"{self.url}/api/orders", json=body, headers=headers) as reply:
                if reply.status == 201:
                    self.acknowledged.append((await reply.json())["id"])
                else:
                    self.failures.append(f"{reply.status} {(await reply.text())[:200]}")
        except (aiohttp.ClientError, TimeoutError) as problem:
            self.failures.append(repr(problem))

    async def _run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
            while not self._stop.is_set():
                task = asyncio.create_task(self._one(session))
                running.add(task)
                task.add_done_callback(running.discard)
                await asyncio.sleep(1 / self.rate)
            await asyncio.gather(*running)


def final_states(orders: list[dict[str, Any]], ids: list[int]) -> dict[str, int]:
    """How many of `ids` are in which state; `lost` for those that are not there at all."""
    states = {order["id"]: order["status"] for order in orders}
    counts: dict[str, int] = {}
    for order_id in ids:
        state = states.get(order_id, "lost")
        counts[state] = counts.get(state, 0) + 1
    return counts
