"""The fault proxy does what its knobs say, with plain sockets on both sides."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults import FaultProxy


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as proxy:
        yield proxy


def connect(proxy: FaultProxy, seconds: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), seconds)


def test_bytes_pass_and_are_counted(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x" * 200_000)
        client.shutdown(socket.SHUT_WR)
        assert sum(len(part) for part in iter(lambda: client.recv(65536), b"")) == 200_000
    assert (proxy.connections, proxy.bytes) == (1, 400_000)


def test_latency_and_bandwidth(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.latency = 0.1
        started = time.monotonic()
        client.sendall(b"ping")
        assert client.recv(10) == b"ping" and time.monotonic() - started >= 0.2
        proxy.latency, proxy.bandwidth, started = 0, 10_000, time.monotonic()
        client.sendall(b"x" * 2000)
        left = 2000
        while left:
            left -= len(client.recv(left))
        assert time.monotonic() - started >= 0.2


def test_resets(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        proxy.reset_after(3)
        client.sendall(b"abcdef")
        received = b""
        with pytest.raises(ConnectionResetError):  # the three bytes may be lost with the reset
            while True:
                received += client.recv(10)
        assert len(received) <= 3
    proxy.reset_all()
    assert proxy.open == 0


def test_half_open(proxy: FaultProxy) -> None:
    with connect(proxy, 0.2) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        proxy.blackhole = True
        client.sendall(b"swallowed")
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.blackhole = False
        client.settimeout(10)
        client.sendall(b"b")
        assert client.recv(10) == b"b"
        proxy.close_half()
        assert client.recv(1) == b""
        client.sendall(b"still passes")


def test_refused_and_accepted_again(proxy: FaultProxy) -> None:
    with connect(proxy) as present:
        for _ in range(3):
            proxy.refuse = True
            with pytest.raises(ConnectionRefusedError):
                connect(proxy)
            present.sendall(b"a")
            assert present.recv(1) == b"a"
            proxy.refuse = False
            with connect(proxy) as client:
                client.sendall(b"b")
                assert client.recv(1) == b"b"


def test_a_target_that_is_not_there() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = FaultProxy(nobody.getsockname())
        with (
            proxy,
            pytest.raises(ConnectionResetError),
            connect(proxy) as client,
        ):  # a busy machine resets within connect
            client.recv(1)
