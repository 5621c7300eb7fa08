"""Settings and secrets in mounted files, and the bindings they come from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from pydantic import BaseModel

from sampan.service import bindings
from sampan.service.bindings import Binding, BindingError
from sampan.service.configuration.files import FileConfig, FileSecret, typed
from sampan.service.data.database import SqlDatabase
from sampan.service.objects.buckets import FileBucket
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


def test_text_becomes_typed() -> None:
    entries = {"rate": "0.5\n", "name": "[not json]", "on": "true", "nested": '{"codes": [1, 2]}', "unknown": "?"}
    assert typed(entries, Settings) == Settings(0.5, "[not json]", True, Nested([1, 2]))
    assert typed({"rate": "1", "tags": '["a"]'}, Plain) == Plain(1.0, tags=["a"])
    assert typed({"rate": "1", "on": "true", "tags": '["a"]'}, Model) == Model(rate=1, on=True, tags=["a"])
    for wrong in ({"rate": "fast"}, {}, {"rate": "1", "nested": "{"}):
        with pytest.raises(ValueError):
            typed(wrong, Settings)


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


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileConfig:
    monkeypatch.setenv("SAMPAN_CONFIG_ROOT", str(tmp_path))
    mount(tmp_path / "pay", "1", {"rate": "0.5"})
    return FileConfig("pay", Settings, {"name": "declared"}, Registry())


def test_a_change_takes_effect_and_is_told(config: FileConfig, tmp_path: Path) -> None:
    seen: list[Any] = []

    def fails(value: Any) -> None:
        raise RuntimeError

    config.on_change(fails)
    end = config.on_change(seen.append)
    config.poll()
    assert config.value == Settings(0.5, "declared") and seen == []
    mount(tmp_path / "pay", "2", {"rate": "0.7"})
    config.poll()
    assert config.value.rate == 0.7 and seen == [config.value]
    end()
    mount(tmp_path / "pay", "3", {"rate": "0.8"})
    config.poll()
    assert config.value.rate == 0.8 and len(seen) == 1


def test_a_bad_value_is_refused_and_the_next_good_one_taken(config: FileConfig, tmp_path: Path) -> None:
    mount(tmp_path / "pay", "2", {"rate": "lots"})
    config.poll()
    config.poll()
    assert config.value.rate == 0.5
    assert config.reloads.value("pay", "refused") == 1
    mount(tmp_path / "pay", "3", {"rate": "0.9"})
    config.poll()
    assert config.value.rate == 0.9


def test_settings_that_do_not_fit_at_the_start_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_CONFIG_ROOT", str(tmp_path))
    with pytest.raises(BindingError, match="rate"):
        FileConfig("none", Settings, {}, Registry())


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


def test_bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path))
    mount(tmp_path / "database-users", "1", {"type": "mysql", "uri": "mysql://u:p%40ss@db/users\n", "token": "t0ken"})
    found = bindings.find("database-users", "SAMPAN_DATABASE_USERS_URI")
    assert (found.type, found.uri) == ("mysql", "mysql://u:p%40ss@db/users")
    assert {"p%40ss", "p@ss", "t0ken"} == set(found.secrets())
    monkeypatch.setenv("SAMPAN_DATABASE_USERS_URI", "sqlite:///x.db")
    assert bindings.find("database-users", "SAMPAN_DATABASE_USERS_URI").type == "sqlite"
    with pytest.raises(BindingError, match="SAMPAN_CACHE_A_URI"):
        bindings.find("cache-a", "SAMPAN_CACHE_A_URI")
    assert bindings.service_url("big-users") == "http://big-users:8080"
    monkeypatch.setenv("SAMPAN_SERVICE_BIG_USERS_URL", "http://127.0.0.1:9/")
    assert bindings.service_url("big-users") == "http://127.0.0.1:9"


async def test_file_bucket(tmp_path: Path) -> None:
    bucket = FileBucket("photos", tmp_path / "b")
    await bucket.put("a/b.txt", b"1")
    await bucket.put("a/b.txt", b"2")
    await bucket.put("c", b"3", "text/plain")
    assert await bucket.get("a/b.txt") == b"2" and await bucket.get("a") is None and await bucket.get("no") is None
    assert [key async for key in bucket.list()] == ["a/b.txt", "c"]
    assert [key async for key in bucket.list("a/")] == ["a/b.txt"]
    await bucket.delete("c")
    await bucket.delete("c")
    assert await bucket.get("c") is None
    for key in ("../out", "/etc/passwd", "", "a/../../x"):
        with pytest.raises(ValueError, match="not a key"):
            await bucket.put(key, b"")
    assert not os.path.exists(tmp_path / "out")  # noqa: PTH110


@pytest.mark.parametrize(
    "uri", ["mysql://u:s3cret@host:port/x", "mysql://u:s3cret@host:3306", "sqlite://", "redis://:s3cret@x"]
)
def test_a_wrong_database_uri_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(BindingError) as caught:
        SqlDatabase("d", Binding("database-d", uri.partition(":")[0], uri))
    assert "database-d" in str(caught.value) and "s3cret" not in str(caught.value)
