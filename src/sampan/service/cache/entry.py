"""How a value is stored; of a loaded one also when it expires, how long its load took, and whether there is none.

A value that was merely set is kept as it is, so that other programs can read it. One that was loaded, or set with a
ttl in a cache with a local level, or that happens to begin like one, has a header: four magic bytes, flags, the Unix
time of its expiry, and the seconds its load took.
"""

from __future__ import annotations

import math
import random
import struct
import time
from typing import Any, Final, NamedTuple

import msgspec

_MAGIC: Final = b"\x00s\xc1\x01"
_HEADER: Final = struct.Struct(">4sBdf")
_MISSING: Final = 1
_encode_json: Final = msgspec.json.Encoder().encode
_decoders: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}


class Entry(NamedTuple):
    """`value` None: it is known that there is nothing. `expires` is 0 when it does not, or nothing is known of it."""

    value: bytes | None
    expires: float = 0.0
    cost: float = 0.0

    def due(self, eagerness: float = 1.0) -> bool:
        """Whether one should load it again although it has not expired: ever more likely as the end comes near,
        sooner for what takes long to load (XFetch; Vattani and others, Optimal Probabilistic Cache Stampede
        Prevention, VLDB 2015)."""
        if not self.expires or not self.cost:
            return False
        return time.time() - self.cost * eagerness * math.log(1.0 - random.random()) >= self.expires


def encode(value: Any) -> bytes:
    """bytes as they are, text in UTF-8, anything else as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else _encode_json(value)


def decode(value: bytes, type: Any) -> Any:
    """JSON into `type`; the bytes themselves without one. Raises msgspec.DecodeError."""
    if type is None:
        return value
    try:
        decoder = _decoders.get(type)
        if decoder is None:
            decoder = _decoders[type] = msgspec.json.Decoder(type)
    except TypeError:  # a type that cannot be a key
        decoder = msgspec.json.Decoder(type)
    return decoder.decode(value)


def plain(value: bytes) -> bytes:
    """What is stored for a value that was set."""
    return pack(Entry(value)) if value.startswith(_MAGIC) else value


def pack(entry: Entry) -> bytes:
    flags = _MISSING if entry.value is None else 0
    return _HEADER.pack(_MAGIC, flags, entry.expires, entry.cost) + (entry.value or b"")


def unpack(stored: bytes) -> Entry:
    if not stored.startswith(_MAGIC) or len(stored) < _HEADER.size:
        return Entry(stored)
    _, flags, expires, cost = _HEADER.unpack_from(stored)
    return Entry(None if flags & _MISSING else stored[_HEADER.size :], expires, cost)
