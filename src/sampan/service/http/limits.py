"""What a connection may ask of the server."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct):
    """Sizes in bytes, times in seconds."""

    url: int = 8 * 1024
    headers: int = 64 * 1024  # all of a request's header lines
    header_count: int = 100
    head_seconds: int = 10  # from the first byte of a request to the end of its headers
    body: int = 1024 * 1024
    body_seconds: int = 10  # without having to reach
    body_rate: int = 240  # bytes a second; 0 waits for ever
    drain: int = 1024 * 1024  # of a body nobody wants, read so that the client can read the answer
    stalled_seconds: int = 60  # without the client taking any of an answer
    linger_seconds: int = 1  # of a connection whose request was refused
