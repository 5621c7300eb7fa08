"""TLS on both sides: server certificates, client certificates as identities, both replaced while connections live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.model import Service
from sampan.service.http.tls import Identity
from sampan.service.rpc import credentials, links
from sampan.service.rpc.client import Channel, RpcError, Target
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.metrics import Registry
from tests.servers.certificates import Authority
from tests.service.rpc.echo import EchoStub, say, serving

SPIFFE = "spiffe://example.org/shop/orders"


class Seeing:
    """A guard that remembers what TLS said of the peer."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def enter(self, scope: Any, context: Context) -> None:
        self.seen.append(scope["extensions"].get("tls"))

    def leave(self, scope: Any, context: Context, status: int, seconds: float) -> None: ...


def channel(port: int, identity: Identity | None) -> Channel:
    service = Service("echo", grpc="tests:echo")
    return Channel(service, Target(f"127.0.0.1:{port}", True), Registry(), identity=identity)


async def test_a_certificate_says_who_calls(tmp_path: Path) -> None:
    authority, guard = Authority(), Seeing()
    ours = Identity(authority.directory(tmp_path / "server", "echo"), "required")
    theirs = Identity(authority.directory(tmp_path / "client", "orders", SPIFFE))
    async with serving(guards=(guard,), identity=ours) as served:
        known = channel(served.server.port, theirs)
        assert (await known.stub(EchoStub).Say(say("a"))).value == "a"
        await known.stop()
        (tls,) = guard.seen
        assert tls["client_cert_chain"][0].startswith("-----BEGIN CERTIFICATE-----")
        assert tls["client_certificate"]["subjectAltName"] == (("URI", SPIFFE), ("DNS", "orders"))
        assert tls["client_certificate"]["subject"] == ((("commonName", "orders"),),)
        # who shows none, or one of somebody else's, does not get in
        stranger = Identity(Authority("other").directory(tmp_path / "stranger", "orders", SPIFFE))
        (tmp_path / "stranger/ca.crt").write_bytes((tmp_path / "server/ca.crt").read_bytes())
        unknown = channel(served.server.port, stranger)
        with pytest.raises(RpcError) as failed:
            await unknown.stub(EchoStub).Order(say("a"), timeout=5)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        await unknown.stop()
        assert len(guard.seen) == 1


async def test_without_tls_nothing_is_said_of_a_certificate() -> None:
    guard = Seeing()
    async with serving(guards=(guard,)) as served, grpc.aio.insecure_channel(served.target) as plain:
        await EchoStub(plain).Say(say("a"))
    assert guard.seen == [None]


async def test_replaced_certificates_are_used_by_new_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_LOOK_SECONDS", 0.0)
    first, guard = Authority("first"), Seeing()
    ours = Identity(first.directory(tmp_path / "server", "echo"), "required")
    theirs = Identity(first.directory(tmp_path / "client", "orders", SPIFFE))
    async with serving(guards=(guard,), identity=ours) as served:
        using = channel(served.server.port, theirs)
        stub: Any = using.stub(EchoStub)
        await stub.Say(say("a"))
        # everything is signed anew by another authority: only who follows the files can still speak
        second = Authority("second")
        second.directory(tmp_path / "server", "echo")
        second.directory(tmp_path / "client", "orders", SPIFFE + "/v2")
        give_up = time.monotonic() + 10
        while guard.seen[-1]["client_certificate"]["subjectAltName"][0][1] != SPIFFE + "/v2":
            assert time.monotonic() < give_up
            await stub.Say(say("b"))
        await using.stop()


def test_what_cannot_be_read_identifies_nobody() -> None:
    assert credentials.described(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") is None
