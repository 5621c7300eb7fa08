"""The SPDY codec against a client written from the specification."""

from __future__ import annotations

import struct
import zlib

import pytest

from sampan.cluster.streaming.spdy import DICTIONARY, SpdySession


class Client:
    """Builds client frames; keeps what the server sent."""

    def __init__(self) -> None:
        self.deflate = zlib.compressobj(zdict=DICTIONARY)
        self.sent = bytearray()

    async def send(self, data: bytes) -> None:
        self.sent += data

    def control(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        return struct.pack("!HHB", 0x8003, kind, flags) + len(body).to_bytes(3, "big") + body

    def open(self, number: int, headers: dict[str, str]) -> bytes:
        block = struct.pack("!I", len(headers))
        for name, value in headers.items():
            block += struct.pack("!I", len(name)) + name.encode() + struct.pack("!I", len(value)) + value.encode()
        packed = self.deflate.compress(block) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        return self.control(1, struct.pack("!IIH", number, 0, 0) + packed)

    def data(self, number: int, data: bytes, fin: bool = False) -> bytes:
        return struct.pack("!IB", number, fin) + len(data).to_bytes(3, "big") + data


def test_the_dictionary_is_the_specifications() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_streams_however_the_bytes_arrive(size: int) -> None:
    client = Client()
    session = SpdySession(client.send)
    wire = (
        client.open(1, {"streamtype": "error", "port": "80"})
        + client.open(3, {"streamtype": "data", "port": "80"})
        + client.control(6, b"\0\0\0\1")
        + client.data(3, b"hello")
        + client.data(3, b"", fin=True)
    )
    for start in range(0, len(wire), size):
        await session.feed(wire[start : start + size])
    first, second = await session.accepted.get(), await session.accepted.get()
    assert first is not None
    assert second is not None
    assert first.headers == {"streamtype": "error", "port": "80"}
    assert [await second.read(), await second.read(), await second.read()] == [b"hello", b"", b""]
    assert client.control(6, b"\0\0\0\1") in client.sent
    assert client.sent.startswith(b"\x80\x03\x00\x02")
    client.sent.clear()
    await second.write(b"x" * 100_000)
    await second.close()
    await second.close()
    assert len(client.sent) == 100_000 + 2 * 8 + 8


async def test_what_is_not_spdy_is_refused() -> None:
    session = SpdySession(Client().send)
    with pytest.raises(ValueError, match="header block"):
        await session.feed(Client().control(1, bytes(10) + b"garbage"))
    session.end()
    assert await session.accepted.get() is None


async def test_a_reset_ends_a_stream() -> None:
    client = Client()
    session = SpdySession(client.send)
    await session.feed(client.open(1, {"streamtype": "data"}) + client.control(3, struct.pack("!II", 1, 5)))
    stream = await session.accepted.get()
    assert stream is not None
    assert await stream.read() == b""
