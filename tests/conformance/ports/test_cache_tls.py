"""A cache server that asks who comes: passwords, and TLS."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from sampan.model import Local
from tests.conformance.ports.caches import Replica
from tests.servers.base import running
from tests.servers.certificates import Authority
from tests.servers.redis import start_redis, start_redis_with_tls

pytestmark = pytest.mark.usefixtures("patient_cache")

PASSWORD = "pa55/w:rd@x"


async def works(replica: Replica) -> None:
    await replica.cache.set("a", b"1", 5)
    assert await replica.cache.get("a") == b"1"
    await replica.cache.check()


async def test_the_password_is_that_of_the_binding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = ("--user", "default", "off", "--user", "web", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    with running(start_redis(tmp_path, *users)) as server:
        right = Replica(server.uri, Local(), username="web", password=PASSWORD)
        await right.start()
        await works(right)
        await right.stop()
        within = Replica(server.uri.replace("://", f"://web:{quote(PASSWORD, safe='')}@"))
        await works(within)
        await within.stop()
        wrong = Replica(server.uri, username="web", password="another-" + PASSWORD)
        assert await wrong.cache.get("a") is None
        with pytest.raises(Exception, match="invalid username-password"):
            await wrong.cache.check()
        await wrong.stop()
    assert PASSWORD not in caplog.text


async def test_tls_by_the_authority_of_the_binding(tmp_path: Path) -> None:
    made = Authority().directory(tmp_path / "tls", "redis")
    with running(start_redis_with_tls(tmp_path, made / "tls.crt", made / "tls.key")) as server:
        trusting = await Replica(server.uri, Local(), ca=(made / "ca.crt").read_text()).start()
        await works(trusting)
        await trusting.stop()
        doubting = Replica(server.uri)
        with pytest.raises(Exception, match=r"(?i)certificate"):
            await doubting.cache.check()
        assert await doubting.cache.get("a") is None
        await doubting.stop()
