"""A receiver of OTLP over HTTP that counts the spans it gets: `python sink.py PORT`; the count is the body of GET /.

It counts when it is asked: while the load runs, on the same core, it only takes what comes.
"""

from __future__ import annotations

import asyncio
import gzip
import sys

spans = 0
taken: list[bytes] = []


def varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


def count(message: bytes, depth: int = 0) -> int:
    """Fields 1 of the request, 2 of ResourceSpans and 2 of ScopeSpans; nothing else is looked at."""
    wanted, found, at = (1, 2, 2)[depth], 0, 0
    while at < len(message):
        tag, at = varint(message, at)
        if tag & 7 != 2:
            raise ValueError("no OTLP request")
        length, at = varint(message, at)
        if tag >> 3 == wanted:
            found += 1 if depth == 2 else count(message[at : at + length], depth + 1)
        at += length
    return found


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global spans  # noqa: PLW0603
    while head := await reader.readuntil(b"\r\n\r\n"):
        lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if lines[0].startswith("get"):
            while taken:
                spans += count(taken.pop())
            body = str(spans).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            continue
        body = await reader.readexactly(int(headers["content-length"]))
        taken.append(gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")


async def main(port: int) -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(connection, "127.0.0.1", port, limit=2**20) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
