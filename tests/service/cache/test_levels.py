"""The level in the process and the form of what is stored; no server."""

from __future__ import annotations

import time

import msgspec
import pytest

from sampan.model import Local
from sampan.service.cache import entry as entries
from sampan.service.cache import local as levels
from sampan.service.cache.entry import Entry
from sampan.service.cache.local import LocalLevel
from sampan.service.telemetry.metrics import Registry


class Clock:
    """Stands for the module `time` where it is put."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(levels, "time", clock)
    return clock


def level(**limits: float) -> LocalLevel:
    made = LocalLevel("test", Local(**limits), Registry())  # type: ignore[arg-type]
    made.open = True
    return made


def fill(local: LocalLevel, key: str, value: bytes | None = b"1", expires: float = 0.0) -> None:
    local.keep(key, local.reading(key), Entry(value, expires))


def test_the_least_recently_used_goes_first() -> None:
    local = level(entries=3)
    for key in "abc":
        fill(local, key)
    local.get("a")
    fill(local, "d")
    assert [key for key in "abcd" if local.get(key)] == ["a", "c", "d"]
    assert local.evictions.value("test", "size") == 1


def test_bytes_are_bounded() -> None:
    local = level(bytes=3000)
    for number in range(10):
        fill(local, str(number), b"x" * 800)
    assert len(local) == 2
    assert local.bytes <= 3000
    fill(local, "huge", b"x" * 5000)
    assert local.get("huge") is None
    assert len(local) == 2
    local.clear("test")
    assert (local.bytes, len(local)) == (0, 0)


def test_nothing_is_kept_longer_than_its_seconds_or_its_own_expiry(clock: Clock) -> None:
    local = level(seconds=5)
    fill(local, "long")
    fill(local, "short", expires=clock.time() + 2)
    fill(local, "over", expires=clock.time() - 1)
    assert local.get("over") is None
    clock.now += 2.1
    assert local.get("short") is None
    assert local.get("long") is not None
    clock.now += 3
    assert local.get("long") is None
    assert len(local) == local.bytes == 0


@pytest.mark.parametrize("change", ["forget", "clear"])
def test_what_changed_while_it_was_read_is_not_kept(change: str) -> None:
    local = level()
    token = local.reading("k")
    local.forget("k") if change == "forget" else local.clear("disconnected")
    local.keep("k", token, Entry(b"old"))
    assert local.get("k") is None
    fill(local, "k", b"new")
    assert local.get("k") == Entry(b"new")


def test_a_closed_level_keeps_nothing() -> None:
    local = level()
    local.open = False
    fill(local, "k")
    assert len(local) == 0


@pytest.mark.parametrize("entry", [Entry(b"", 0, 0), Entry(b"v" * 99, 1.5e9, 0.25), Entry(None, 1.5e9, 2.0)])
def test_what_is_packed_comes_back(entry: Entry) -> None:
    assert entries.unpack(entries.pack(entry)) == entry


def test_what_was_set_is_stored_as_it_is_unless_it_looks_like_a_header() -> None:
    assert entries.plain(b"value") == b"value"
    for awkward in (b"\x00s\xc1\x01", entries.pack(Entry(b"x"))):
        assert entries.unpack(entries.plain(awkward)).value == awkward
    assert entries.unpack(b"\x00s\xc1\x01short").value == b"\x00s\xc1\x01short"


def test_values_are_bytes_text_or_json() -> None:
    assert [entries.encode(value) for value in (b"\xff", "ü", {"a": 1}, 7)] == [b"\xff", "ü".encode(), b'{"a":1}', b"7"]
    assert entries.decode(b'{"a":1}', dict[str, int]) == {"a": 1}
    with pytest.raises(msgspec.DecodeError):
        entries.decode(b'{"a":"x"}', dict[str, int])


def test_a_load_is_due_ever_more_often_as_its_end_comes_near() -> None:
    def share(left: float, cost: float) -> float:
        return sum(Entry(b"", time.time() + left, cost).due() for _ in range(2000)) / 2000

    assert share(60, 1) == 0
    assert 0.25 < share(1, 1) < 0.5  # e**-1
    assert share(0.1, 1) > 0.8
    assert share(1, 0.01) == 0  # what loads quickly need not be early
    assert share(-1, 1) == 1
    assert not Entry(b"").due()
