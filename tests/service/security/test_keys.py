"""The issuer's keys: rotation while requests come, an issuer that is away, and storms of unknown ids."""

from __future__ import annotations

import asyncio

import pytest

from sampan.model import Oidc, Security
from sampan.service.security import keys as module
from tests.service.security.conftest import Dev, Secured, Securing, whoami


async def post(service: Secured, url: str) -> None:
    async with service.session.post(url) as reply:
        assert reply.status == 200


async def test_rotation_under_load_fails_no_request(
    securing: Securing, dev: Dev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFETCH_SECONDS", 0.05)
    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        statuses: list[int] = []
        running = True

        async def load(number: int) -> None:
            while running:
                status, _, _ = await service.ask("/", dev.sign(f"caller-{number}"))
                statuses.append(status)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(load(number)) for number in range(8)]
        for _ in range(5):
            await asyncio.sleep(0.1)
            await post(service, f"{dev.url}/rotate")
        await asyncio.sleep(0.1)
        running = False
        await asyncio.gather(*tasks)
        assert len(statuses) > 50
        assert set(statuses) == {200}
        keys = service.guard.authenticators[0].keys
        assert 5 <= keys.fetches <= 8, "one fetch a rotation, however many ask"


async def test_a_withdrawn_key_ends_what_was_remembered(
    securing: Securing, dev: Dev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFETCH_SECONDS", 0.0)
    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        old = dev.sign("ada")
        assert (await service.ask("/", old))[0] == 200
        await post(service, f"{dev.url}/rotate?forget=1")
        assert (await service.ask("/", dev.sign("bob")))[0] == 200  # brings the new set
        assert (await service.ask("/", old))[0] == 401


async def test_while_the_issuer_is_away(securing: Securing, dev: Dev, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = Security(authenticate=[Oidc(dev.url, "orders")], public=["/open"])
    async with securing(whoami, declared) as before, securing(whoami, declared) as never:
        assert (await before.ask("/", dev.sign("ada")))[0] == 200
        await dev.server.stop()
        assert (await before.ask("/", dev.sign("bob")))[0] == 200, "the keys of before stay good"
        status, answer, headers = await never.ask("/", dev.sign("ada"))
        assert (status, headers["retry-after"]) == (503, "2")
        assert "127.0.0.1" not in str(answer)
        assert (await never.ask("/open", dev.sign("ada")))[0] == 200
        assert never.decisions("oidc", "unavailable") == 1


async def test_unknown_ids_do_not_storm_the_issuer(securing: Securing, dev: Dev) -> None:
    from tests.service.security.test_tokens import body, es256, header, other_key

    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        assert (await service.ask("/", dev.sign()))[0] == 200
        forged = [es256(other_key(), header(dev, kid=f"k{number}"), body(dev)) for number in range(30)]
        answers = await asyncio.gather(*(service.ask("/", token) for token in forged))
        assert {status for status, _, _ in answers} == {401}
        assert service.guard.authenticators[0].keys.fetches <= 2


async def test_discovery_of_another_issuer_is_not_believed(securing: Securing, dev: Dev) -> None:
    port = dev.url.rpartition(":")[2]
    declared = Oidc(f"http://localhost:{port}", "orders")  # its document says 127.0.0.1, and Host must be its own
    async with securing(whoami, Security(authenticate=[declared])) as service:
        token = dev.keys.sign(declared.issuer, "ada", ["orders"], "")
        assert (await service.ask("/", token))[0] == 503
