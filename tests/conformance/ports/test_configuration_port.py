"""Every source of settings keeps the same promises: mounted files, etcd, Consul."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from sampan.service.bindings import Binding, BindingError
from sampan.service.configuration.binding import SOURCES
from sampan.service.configuration.files import FileSource
from sampan.service.configuration.live import LiveConfig
from sampan.service.http.readiness import Degraded
from sampan.service.process import load_string
from sampan.service.telemetry.metrics import Registry
from tests.faults import FaultProxy
from tests.servers.base import Server
from tests.servers.etcd import EtcdServer, start_etcd


class Settings(Struct):
    rate: float = 0.5
    most: int = 10
    least: int = 1
    codes: list[int] = []
    password: int = 0

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError("least is above most")


class Store:
    """Where one test keeps its settings: a directory of a mount, or keys below a path of a server."""

    def __init__(self, kind: str, place: Path, server: Any = None) -> None:
        self.kind, self.place, self.server = kind, place, server
        self.path = f"/config/t{os.urandom(4).hex()}"
        self.entries: dict[str, str] = {}
        self._version = 0

    @property
    def document(self) -> bool:
        return self.kind.endswith("document")

    def put(self, **entries: str) -> None:
        self.entries |= entries
        self._write(entries)

    def delete(self, name: str) -> None:
        del self.entries[name]
        self._write({name: None})

    def _write(self, changes: dict[str, Any]) -> None:
        if self.kind == "files":
            self._mount()
        elif self.document:
            self.server.put(self.path, json.dumps({key: json.loads(text) for key, text in self.entries.items()}))
        else:
            for name, text in changes.items():
                if text is None:
                    self.server.delete(f"{self.path}/{name}")
                else:
                    self.server.put(f"{self.path}/{name}", text)

    def _mount(self) -> None:
        """As the kubelet does it: a folder per version, `..data` swapped by a rename, files as links through it."""
        self._version += 1
        data = self.place / f"..{self._version}"
        data.mkdir(parents=True)
        for name, text in self.entries.items():
            (data / name).write_text(text)
            if not (self.place / name).is_symlink():
                (self.place / name).symlink_to(f"..data/{name}")
        for link in self.place.iterdir():
            if link.is_symlink() and not link.name.startswith(".") and link.name not in self.entries:
                link.unlink()
        (self.place / "..data_tmp").symlink_to(data.name)
        (self.place / "..data_tmp").rename(self.place / "..data")

    def source(self, port: int | None = None) -> Any:
        if self.kind == "files":
            return FileSource(self.place)
        scheme = self.server.uri.partition(":")[0]
        uri = f"{scheme}://127.0.0.1:{port or self.server.port}{self.path}"
        return load_string(SOURCES[scheme], "source")(Binding("config-test", scheme, uri))

    @contextlib.asynccontextmanager
    async def follow(self, port: int | None = None, name: str = "test") -> AsyncIterator[LiveConfig]:
        config = LiveConfig(name, Settings, {}, self.source(port), Registry())
        await config.load()
        await config.start()
        try:
            yield config
        finally:
            await config.stop()


@pytest.fixture(params=["files", "etcd", "etcd-document", "consul", "consul-api", "consul-api-document"])
def store(request: pytest.FixtureRequest, tmp_path: Path, coordination: Callable[[str], Server]) -> Store:
    kind: str = request.param
    return Store(kind, tmp_path / "mount", None if kind == "files" else coordination(kind.removesuffix("-document")))


@pytest.fixture
def own(own_coordination: tuple[str, Server], tmp_path: Path) -> Store:
    """A store whose server the test may kill."""
    kind, server = own_coordination
    return Store(kind, tmp_path, server)


async def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)


async def reported(config: LiveConfig) -> str:
    try:
        await config.check()
    except Degraded as error:
        return str(error)
    return ""


async def test_a_change_takes_effect_and_subscribers_are_told(store: Store) -> None:
    store.put(rate="0.7", codes="[1, 2]")
    async with store.follow() as config:
        assert config.value == Settings(0.7, codes=[1, 2])
        told: list[float] = []
        awaited: list[float] = []

        async def later(value: Settings) -> None:
            await asyncio.sleep(0.01)
            awaited.append(value.rate)

        def fails(value: Settings) -> None:
            raise RuntimeError("a subscriber's own fault")

        config.on_change(fails)
        end = config.on_change(lambda value: told.append(value.rate))
        config.on_change(later)
        store.put(rate="0.8")
        await until(lambda: config.value.rate == 0.8 and told == [0.8] and awaited == [0.8], "told of 0.8")
        end()
        store.put(rate="0.9")
        await until(lambda: awaited == [0.8, 0.9], "told of 0.9")
        assert told == [0.8] and config.reloads.value("test", "applied") == 2


async def test_what_does_not_fit_is_refused_and_reported_and_the_old_stays(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(rate="0.7")
    async with store.follow() as config:
        with caplog.at_level(logging.ERROR, "sampan.config"):
            store.put(rate='"plenty"')
            await until(lambda: config.refused, "refused")
        assert config.value.rate == 0.7
        assert "rate: Expected `float`" in await reported(config) and "plenty" in await reported(config)
        assert "rate: Expected `float`" in caplog.text and config.reloads.value("test", "refused") == 1
        store.put(rate="0.8")
        await until(lambda: config.value.rate == 0.8, "the next good one")
        assert await reported(config) == ""


async def test_a_check_across_fields_refuses_and_secrets_are_not_shown(store: Store) -> None:
    store.put(least="3", most="5")
    async with store.follow() as config:
        store.put(least="7")
        await until(lambda: config.refused, "refused")
        assert config.value == Settings(least=3, most=5) and "least is above most" in await reported(config)
        store.put(most="9", password='"hunter22"')
        await until(lambda: "password" in config.refused, "the password refused")
        assert "hunter22" not in await reported(config)
        store.put(password="1")
        await until(lambda: config.value == Settings(least=7, most=9, password=1), "both")


async def test_a_field_taken_away_has_its_default_again_and_nothing_is_all_defaults(store: Store) -> None:
    async with store.follow() as config:
        assert config.value == Settings()
        store.put(rate="0.7", most="20")
        await until(lambda: config.value == Settings(0.7, 20), "both")
        store.delete("rate")
        await until(lambda: config.value == Settings(0.5, 20), "the default")


async def test_the_environment_wins_and_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_CONFIG_TEST_RATE", "0.1")
    store.put(rate="0.7", most="20")
    async with store.follow() as config:
        assert config.value == Settings(0.1, 20)
        store.put(rate="0.8", most="30")
        await until(lambda: config.value.most == 30, "the other field")
        assert config.value.rate == 0.1


async def test_many_changes_end_with_the_last(store: Store) -> None:
    store.put(most="1")
    async with store.follow() as config:
        for number in range(2, 30):
            store.put(most=str(number))
        await until(lambda: config.value.most == 29, "the last")


async def test_a_large_value_arrives_whole(store: Store) -> None:
    codes = list(range(60_000))  # more than one read of a stream
    async with store.follow() as config:
        store.put(codes=json.dumps(codes))
        await until(lambda: config.value.codes == codes, "all of it")


# -- sources on a network ------------------------------------------------------------------------------------------


async def test_a_source_that_is_away_at_the_start_is_said_or_where_allowed_awaited(own: Store) -> None:
    own.put(rate="0.7")
    own.server.kill()
    config = LiveConfig("test", Settings, {}, own.source(), Registry())
    with pytest.raises(BindingError, match=r"settings 'test': .*127\.0\.0\.1.*optional=true"):
        await config.load(wait=0.2)
    await config.load(wait=0.2, optional=True)
    assert config.value == Settings() and config.up.value("test") == 0
    await config.start()
    assert "not followed" in await reported(config)
    own.server.start()
    await until(lambda: config.value.rate == 0.7, "what the source holds")
    assert await reported(config) == "" and config.up.value("test") == 1
    await config.stop()


async def test_a_restart_of_the_source_changes_nothing_and_loses_nothing(own: Store) -> None:
    own.put(rate="0.7")
    async with own.follow() as config:
        own.server.kill()
        await until(lambda: config.away, "noticed")
        assert config.value.rate == 0.7 and "127.0.0.1" in await reported(config)
        own.server.start()
        own.put(rate="0.8")
        await until(lambda: config.value.rate == 0.8 and not config.away, "followed again")


async def test_resets_and_refusals_on_the_way_lose_no_change(own: Store) -> None:
    own.put(most="100")
    with FaultProxy(("127.0.0.1", own.server.port)) as proxy:
        async with own.follow(proxy.port) as config:
            for number in range(5):
                proxy.refuse = True
                proxy.reset_all()
                own.put(most=str(200 + number))
                await asyncio.sleep(0.05)
                proxy.refuse = False
                await until(lambda number=number: config.value.most == 200 + number, "the change made meanwhile")  # type: ignore[misc]


# -- etcd alone ----------------------------------------------------------------------------------------------------


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = start_etcd(tmp_path)
    yield server
    server.stop()


async def test_etcd_gives_every_change_made_during_a_break_in_order(etcd: EtcdServer, tmp_path: Path) -> None:
    store, seen = Store("etcd", tmp_path, etcd), []
    store.put(most="1")
    with FaultProxy(("127.0.0.1", etcd.port)) as proxy:
        async with store.follow(proxy.port) as config:
            config.on_change(lambda value: seen.append(value.most))
            proxy.refuse = True
            proxy.reset_all()
            await until(lambda: config.away, "noticed")
            for number in range(2, 12):
                store.put(most=str(number))
            proxy.refuse = False
            await until(lambda: seen == list(range(2, 12)), "each of them")


async def test_etcd_compacted_during_a_break_is_read_anew(etcd: EtcdServer, tmp_path: Path) -> None:
    store = Store("etcd", tmp_path, etcd)
    store.put(most="1", rate="0.1")
    with FaultProxy(("127.0.0.1", etcd.port)) as proxy:
        async with store.follow(proxy.port) as config:
            proxy.refuse = True
            proxy.reset_all()
            await until(lambda: config.away, "noticed")
            store.delete("rate")
            for number in range(2, 6):
                store.put(most=str(number))
            etcd.compact(etcd.put("/other", "x"))
            proxy.refuse = False
            await until(lambda: config.value == Settings(most=5), "the present state")
            store.put(most="6")
            await until(lambda: config.value.most == 6, "and on from there")


async def test_etcd_half_open_is_noticed_by_its_silence(
    etcd: EtcdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.service.coordination.etcd.SILENCE_SECONDS", 0.5)
    store = Store("etcd", tmp_path, etcd)
    store.put(most="1")
    with FaultProxy(("127.0.0.1", etcd.port)) as proxy:
        async with store.follow(proxy.port) as config:
            await asyncio.sleep(0.2)
            proxy.blackhole = True  # what is sent into it is lost, the connection stays
            store.put(most="2")
            await asyncio.sleep(0.2)
            proxy.blackhole = False
            await until(lambda: config.value.most == 2, "the change that was swallowed")


async def test_etcd_set_up_anew_is_read_anew(etcd: EtcdServer, tmp_path: Path) -> None:
    """Its revisions begin again: a watch from the old one would wait for ever."""
    store = Store("etcd", tmp_path, etcd)
    for number in range(20):
        store.put(most=str(number + 2))
    async with store.follow() as config:
        etcd.kill()
        shutil.rmtree(tmp_path / "etcd")
        etcd.start()
        store.put(most="77")
        await until(lambda: config.value.most == 77, "the new state")


async def test_etcd_with_users(etcd: EtcdServer, tmp_path: Path) -> None:
    etcd.add_user("orders", "s3cret/pw")
    store = Store("etcd", tmp_path, etcd)
    store.put(rate="0.7")

    def config(password: str) -> LiveConfig:
        values = {"username": "orders", "password": password}
        source = load_string(SOURCES["etcd"], "")(Binding("b", "etcd", f"{etcd.uri}{store.path}", values))
        return LiveConfig("test", Settings, {}, source, Registry())

    wrong = config("wr0ng-pw")
    with pytest.raises(BindingError, match="authentication failed") as caught:
        await wrong.load(wait=0)
    await wrong.source.close()
    assert "wr0ng-pw" not in str(caught.value)
    live = config("s3cret/pw")
    await live.load()
    await live.start()
    etcd.kill()  # its tokens go with it
    etcd.start()
    etcd.token = ""
    etcd.token = etcd.call("auth/authenticate", {"name": "root", "password": "s3cret/pw"})["token"]
    store.put(rate="0.8")
    await until(lambda: live.value.rate == 0.8, "a new token")
    await live.stop()


async def test_etcd_over_tls_with_a_client_certificate(tmp_path: Path) -> None:
    server = start_etcd(tmp_path, tls=True)
    try:
        store = Store("etcd", tmp_path, server)
        store.put(rate="0.7")
        pair = {name: (tmp_path / name).read_text() for name in ("ca.crt", "tls.crt", "tls.key")}
        binding = Binding("b", "etcd", f"etcd://127.0.0.1:1,127.0.0.1:{server.port}{store.path}", pair)
        live = LiveConfig("test", Settings, {}, load_string(SOURCES["etcd"], "")(binding), Registry())
        await live.load()
        await live.start()
        assert live.value.rate == 0.7
        store.put(rate="0.8")
        await until(lambda: live.value.rate == 0.8, "a change")
        await live.stop()
        plain = Binding("b", "etcd", f"etcd://127.0.0.1:{server.port}{store.path}")
        source = load_string(SOURCES["etcd"], "")(plain)
        with pytest.raises(BindingError):
            await LiveConfig("test", Settings, {}, source, Registry()).load(wait=0)
        await source.close()
    finally:
        server.stop()
