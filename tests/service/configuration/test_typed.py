"""Text becomes typed settings; what is wrong with it is said without showing secrets; secrets follow their rotation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from pydantic import BaseModel, model_validator

from sampan.model import Application, Config, Service
from sampan.service.bindings import Binding, BindingError
from sampan.service.configuration.files import FileSecret, FileSource
from sampan.service.configuration.live import LiveConfig
from sampan.service.configuration.port import Away, Entries
from sampan.service.configuration.typed import Refused, typed
from sampan.service.process import Process
from sampan.service.telemetry.logs import Redactor
from sampan.service.telemetry.metrics import Registry


class Nested(Struct, frozen=True):
    codes: list[int] = []


class Settings(Struct):
    rate: float
    name: str = "x"
    on: bool = False
    nested: Nested = Nested()
    note: str | None = None


@dataclass
class Plain:
    rate: float
    on: bool = False
    tags: list[str] = field(default_factory=list)


class Model(BaseModel):
    rate: float
    on: bool = False
    tags: list[str] = []


class Checked(BaseModel):
    low: int = 0
    high: int = 10
    api_token: str = "none"

    @model_validator(mode="after")
    def ordered(self) -> Checked:
        if self.low > self.high:
            raise ValueError(f"{self.low} is above {self.high}, and the token is {self.api_token}")
        return self


@dataclass
class Odd:
    host: str = ""

    def __post_init__(self) -> None:
        if self.host == "x":
            raise LookupError("no such host: x")


def mount(directory: Path, version: str, entries: dict[str, str]) -> None:
    """As the kubelet does it: a folder per version, `..data` swapped by a rename, files as links through it."""
    data = directory / f"..{version}"
    data.mkdir(parents=True)
    for name, text in entries.items():
        (data / name).write_text(text)
    link = directory / "..data_tmp"
    link.symlink_to(data.name)
    link.rename(directory / "..data")
    for name in entries:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")


def test_text_becomes_typed() -> None:
    entries = {"rate": "0.5\n", "name": "[not json]", "on": "true", "nested": '{"codes": [1, 2]}', "unknown": "?"}
    assert typed(entries, Settings) == Settings(0.5, "[not json]", True, Nested([1, 2]))
    assert typed({"rate": "1", "tags": '["a"]'}, Plain) == Plain(1.0, tags=["a"])
    assert typed({"rate": "1", "on": "true", "tags": '["a"]'}, Model) == Model(rate=1, on=True, tags=["a"])
    for wrong in ({"rate": "fast"}, {}, {"rate": "1", "nested": "{"}):
        with pytest.raises(ValueError):
            typed(wrong, Settings)


@pytest.mark.parametrize(
    ("entries", "type", "words", "hidden"),
    [
        ({"rate": "fast"}, Settings, "rate: Expected `float`, got `str` (written: 'fast')", None),
        ({"rate": "1", "nested": '{"codes": ["a"]}'}, Settings, "nested.codes[0]: Expected `int`", None),
        ({"rate": "1", "nested": "{"}, Settings, "nested: not JSON", None),
        ({}, Settings, "missing required field `rate`", None),
        ({"low": "many", "api_token": "t0p-secret"}, Checked, "low: Input should be a valid integer", "t0p-secret"),
        ({"low": "9", "high": "3", "api_token": "t0p-secret"}, Checked, "9 is above 3", "t0p-secret"),
        ({"host": "x"}, Odd, "LookupError: no such host: x", None),
    ],
)
def test_what_is_wrong_is_said_by_field(entries: dict[str, str], type: Any, words: str, hidden: str | None) -> None:
    with pytest.raises(Refused) as caught:
        typed(entries, type)
    assert words in str(caught.value)
    assert hidden is None or hidden not in str(caught.value)


def test_a_secret_follows_its_rotation(tmp_path: Path) -> None:
    mount(tmp_path / "s", "1", {"type": "opaque", "api-key": "first-key"})
    redactor = Redactor()
    secret = FileSecret("s", Binding("secret-s", "opaque", "", {"api-key": "first-key"}), tmp_path / "s", redactor)
    mount(tmp_path / "s", "2", {"type": "opaque", "api-key": "second-key\n"})
    secret.poll()
    assert secret["api-key"] == "second-key"
    assert redactor.clean(b"second-key") == b"[redacted]"
    with pytest.raises(KeyError, match="no key 'other'"):
        secret["other"]


def bound(config: Config[Any]) -> Process:
    process = Process(Application("a", services=[Service("s", asgi="x:y", uses=[config])]).service("s"))
    process.bind()
    return process


def test_settings_are_there_once_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_CONFIG_ROOT", str(tmp_path))
    config = Config("pay-out", Settings, {"name": "declared"})
    with pytest.raises(BindingError, match=r"settings 'pay-out' .*pay-out.*rate"):
        bound(config)
    monkeypatch.setenv("SAMPAN_CONFIG_PAY_OUT_RATE", "2.5")
    bound(config)
    assert config.value == Settings(2.5, "declared")
    mount(tmp_path / "pay-out", "1", {"rate": "1", "name": "mounted"})
    bound(config)
    assert config.value == Settings(2.5, "mounted")
    monkeypatch.setenv("SAMPAN_CONFIG_PAY_OUT_URI", f"file://{tmp_path / 'other'}")
    mount(tmp_path / "other", "1", {"name": "elsewhere"})
    bound(config)
    assert config.value == Settings(2.5, "elsewhere")
    monkeypatch.setenv("SAMPAN_CONFIG_PAY_OUT_URI", "ftp://x")
    with pytest.raises(BindingError, match="'ftp'; here consul, consuls, etcd, etcds, file can be used"):
        bound(config)


def test_a_file_that_is_no_text_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_CONFIG_ROOT", str(tmp_path))
    (tmp_path / "pay").mkdir()
    (tmp_path / "pay/rate").write_bytes(b"\xff\xfe")
    with pytest.raises(BindingError, match="settings 'pay'"):
        bound(Config("pay", Settings))


class Flaky:
    """A source whose watch fails in every way there is, in turn, and then works."""

    place = "nowhere"

    def __init__(self) -> None:
        self.faults: list[Exception] = [Away("gone"), RuntimeError("a fault of ours"), Away("gone again")]
        self.closed = False

    async def load(self) -> Entries:
        return {"rate": "1"}

    async def watch(self) -> AsyncIterator[Entries]:
        if self.faults:
            raise self.faults.pop(0)
        yield {"rate": "2"}
        await asyncio.Event().wait()

    async def check(self) -> None: ...

    async def close(self) -> None:
        self.closed = True


async def test_nothing_ends_the_following_but_the_end() -> None:
    source = Flaky()
    config = LiveConfig("pay", Settings, {}, source, Registry())
    await config.load()
    await config.start()
    async with asyncio.timeout(20):
        while config.value.rate != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await config.stop()
    assert source.closed


async def test_a_slow_subscriber_hears_the_latest_and_never_two_at_once() -> None:
    config = LiveConfig("pay", Settings, {}, FileSource(Path("/nonexistent")), Registry())
    config.first({"rate": "0"})
    running, heard, go = 0, [], asyncio.Event()

    async def slow(value: Settings) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await go.wait()
        heard.append(value.rate)
        running -= 1

    config.on_change(slow)
    for number in range(1, 6):
        config.take({"rate": str(number)})
        await asyncio.sleep(0)
    go.set()
    async with asyncio.timeout(20):
        while heard != [1, 5]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
