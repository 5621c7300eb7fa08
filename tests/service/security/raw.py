"""Bytes on a socket, as no client library would send them."""

from __future__ import annotations

import asyncio
import contextlib


async def exchange(port: int, *chunks: bytes, wait: float = 5.0) -> bytes:
    """Send the chunks one by one; everything the server says until it closes, or is silent for `wait` seconds once it
    has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        with contextlib.suppress(ConnectionError):  # it may be refused before all is sent
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0)
        while True:
            try:
                more = await asyncio.wait_for(reader.read(65536), wait if not got else 0.15)
            except TimeoutError:
                break
            if not more:
                got += b"<closed>"
                break
            got += more
    except ConnectionError:
        got += b"<closed>"
    finally:
        writer.close()
    return got


def statuses(answer: bytes) -> list[int]:
    """The status of every response in a stream of them."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
