"""TLS from a mounted directory: certificates that change under open connections, and clients known by theirs."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from sampan.model import PeerIdentity, Security
from sampan.service import security
from sampan.service.bindings import BindingError
from sampan.service.http.tls import Identity
from tests.servers.certificates import Authority
from tests.service.security.conftest import Securing, whoami

ADA = "spiffe://shop.example/ns/shop/sa/ada"


@pytest.fixture
def ca() -> Authority:
    return Authority()


def trusting(directory: Path, shown: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    if shown is not None:
        context.load_cert_chain(shown / "tls.crt", shown / "tls.key")
    return context


class Connection:
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.port, self.context = port, context

    async def __aenter__(self) -> Connection:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    @property
    def name(self) -> str:
        """The common name of the server's certificate."""
        return str(self.writer.get_extra_info("peercert")["subject"][0][0][1])

    async def ask(self) -> tuple[int, Any, bytes]:
        self.writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), json.loads(await self.reader.readexactly(length)), head.lower()


async def test_a_new_certificate_under_an_open_connection(
    securing: Securing, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ca.directory(tmp_path / "tls", "first")
    monkeypatch.setenv("SAMPAN_TLS_DIRECTORY", str(directory))
    context = trusting(directory)
    async with securing(whoami) as service, Connection(service.port, context) as old:
        status, answer, head = await old.ask()
        assert (status, answer["scheme"], old.name) == (200, "https", "first")
        assert b"strict-transport-security: max-age=31536000" in head
        before = security.client_context()
        ca.directory(directory, "second")
        for _ in range(100):
            await asyncio.sleep(0.1)
            async with Connection(service.port, context) as fresh:
                assert (await fresh.ask())[0] == 200
                if fresh.name == "second":
                    break
        else:
            raise AssertionError("the new certificate never came")
        assert (await old.ask())[0] == 200, "the open connection lives on"
        assert security.client_context() is not before
        (directory / "tls.key").write_text("not a key")
        await asyncio.sleep(1.5)
        async with Connection(service.port, context) as fresh:
            assert fresh.name == "second", "what does not fit is refused"
        reloads = service.process.registry.metrics["tls_reloads_total"]
        assert reloads.value("refused") >= 1  # type: ignore[union-attr]


async def test_clients_are_known_by_their_certificates(
    securing: Securing, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ca.directory(tmp_path / "tls", "server")
    monkeypatch.setenv("SAMPAN_TLS_DIRECTORY", str(directory))
    ada = ca.directory(tmp_path / "ada", "ada", ADA)
    evil = ca.directory(tmp_path / "evil", "evil", "spiffe://evil.example/ada")
    nobody = ca.directory(tmp_path / "nobody", "spiffe://shop.example/ns/shop/sa/ada")
    stranger = Authority("other").directory(tmp_path / "stranger", "ada", ADA)
    declared = Security(authenticate=[PeerIdentity(["shop.example"])], public=["/open"])
    async with securing(whoami, declared) as service:
        async with Connection(service.port, trusting(directory, ada)) as known:
            for _ in range(2):
                status, answer, _ = await known.ask()
                assert (status, answer["subject"], answer["spiffe"]) == (200, ADA, ADA)
        for shown in (None, evil, nobody):
            async with Connection(service.port, trusting(directory, shown)) as other:
                assert (await other.ask())[0] == 401
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            async with Connection(service.port, trusting(directory, stranger)) as other:
                await other.ask()
        # the CA changes: those of the old one are strangers now, on new connections
        fresh = Authority("fresh")
        ca.directory(directory, "server", ca=fresh)
        trusted = ssl.create_default_context(cadata=_pem(ca))
        trusted.load_cert_chain(ada / "tls.crt", ada / "tls.key")
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                async with Connection(service.port, trusted) as old:
                    await old.ask()
            except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
                break
        else:
            raise AssertionError("a client of the old CA is still let in")


def _pem(ca: Authority) -> str:
    from cryptography.hazmat.primitives import serialization

    return ca.certificate.public_bytes(serialization.Encoding.PEM).decode()


async def test_a_certificate_may_be_demanded(
    securing: Securing, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ca.directory(tmp_path / "tls", "server")
    monkeypatch.setenv("SAMPAN_TLS_DIRECTORY", str(directory))
    monkeypatch.setenv("SAMPAN_TLS_CLIENTS", "required")
    expired = ca.directory(tmp_path / "expired", "ada", ADA, days=-1)
    ada = ca.directory(tmp_path / "ada", "ada", ADA)
    async with securing(whoami) as service:
        async with Connection(service.port, trusting(directory, ada)) as known:
            assert (await known.ask())[0] == 200
        for shown in (None, expired):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with Connection(service.port, trusting(directory, shown)) as other:
                    await other.ask()


async def test_old_versions_are_refused(
    securing: Securing, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ca.directory(tmp_path / "tls", "server")
    monkeypatch.setenv("SAMPAN_TLS_DIRECTORY", str(directory))
    old = trusting(directory)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    async with securing(whoami) as service:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with Connection(service.port, old):
                pass
        two = trusting(directory)
        two.maximum_version = ssl.TLSVersion.TLSv1_2
        async with Connection(service.port, two) as connection:
            assert (await connection.ask())[0] == 200


def test_files_that_are_not_there(tmp_path: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BindingError, match=r"holds tls\.crt, tls\.key and ca\.crt"):
        Identity(tmp_path)
    directory = ca.directory(tmp_path / "tls", "server")
    (directory / "ca.crt").unlink()
    Identity(directory)
    with pytest.raises(BindingError, match="clients are to show certificates"):
        Identity(directory, "required")
