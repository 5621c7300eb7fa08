"""A load of a fixed rate: `python pace.py PORT RATE SECONDS` prints the p50, p99 and p99.9 in ms, and the rate reached.

Requests are due at fixed times whatever the server does (an open loop), over 32 connections kept alive; a latency
counts from when its request was due, so that a server that stalls is not asked less meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque

CONNECTIONS = 32


class Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self.load, self.due, self.seen = load, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.load.idle.append(self)

    def ask(self, due: float) -> None:
        self.due, self.seen = due, b""
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.seen += data
        head, found, body = self.seen.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self.load.refused += not head.startswith(b"HTTP/1.1 200")
            self.load.latencies.append(time.perf_counter() - self.due)
            self.load.idle.append(self)
            self.load.go(time.perf_counter())


class Load:
    def __init__(self, port: int) -> None:
        self.request = f"GET /users/42 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.port = port
        self.idle: deque[Connection] = deque()
        self.waiting: deque[float] = deque()  # when the requests were due that found no connection free
        self.latencies: list[float] = []
        self.refused = 0

    def go(self, now: float) -> None:
        while self.idle and self.waiting and self.waiting[0] <= now:
            self.idle.popleft().ask(self.waiting.popleft())

    async def run(self, rate: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        started, asked = time.perf_counter(), 0
        while (now := time.perf_counter()) < started + seconds:
            while started + asked / rate <= now:
                self.waiting.append(started + asked / rate)
                asked += 1
            self.go(now)
            await asyncio.sleep(0.0005)
        while len(self.latencies) < asked and time.perf_counter() < started + seconds + 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        found = sorted(self.latencies)
        told = {
            f"p{share}": found[min(len(found) - 1, int(len(found) * share / 100))] * 1000 for share in (50, 99, 99.9)
        }
        sys.stdout.write(
            json.dumps({**told, "rate": len(found) / (time.perf_counter() - started), "refused": self.refused})
        )


if __name__ == "__main__":
    asyncio.run(Load(int(sys.argv[1])).run(float(sys.argv[2]), float(sys.argv[3])))
