"""The informer's promises, one per test, through the faults that make operators go deaf."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.informer import Informer
from sampan.kube.objects import Object, name_of

MAPS = "/api/v1/namespaces/shop/configmaps"
Make = Callable[..., Object]


@pytest.fixture
async def informer(client: Client) -> AsyncIterator[Informer]:
    made = Informer(client, kinds.CONFIG_MAP, silence=0.1)
    yield made
    await made.stop()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(3):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_it_lists_then_follows(server: Any, informer: Informer, config_map: Make) -> None:
    server.put(f"{MAPS}/a", config_map("a"))
    informer.start()
    await informer.wait_synced(1)
    assert [name_of(o) for o in informer.list()] == ["a"]
    server.put(f"{MAPS}/b", config_map("b", x="1"))
    await until(lambda: informer.get("shop/b"))
    server.remove(f"{MAPS}/a")
    await until(lambda: informer.get("shop/a") is None)


async def test_handlers_hear_old_and_new(server: Any, informer: Informer, config_map: Make) -> None:
    heard: list[tuple[Any, Any]] = []
    informer.add_handler(lambda old, new: heard.append((old and old["data"], new and new["data"])))
    informer.start()
    await informer.wait_synced(1)
    server.put(f"{MAPS}/a", config_map("a", x="1"))
    server.put(f"{MAPS}/a", config_map("a", x="2"))
    server.remove(f"{MAPS}/a")
    await until(lambda: len(heard) == 3)
    assert heard == [(None, {"x": "1"}), ({"x": "1"}, {"x": "2"}), ({"x": "2"}, None)]


async def test_a_dropped_watch_resumes_without_listing(server: Any, informer: Informer, config_map: Make) -> None:
    server.put(f"{MAPS}/a", config_map("a"))
    informer.start()
    await informer.wait_synced(1)
    server.put(f"{MAPS}/b", config_map("b"))
    await until(lambda: informer.get("shop/b"))
    server.drop()
    server.put(f"{MAPS}/c", config_map("c"))
    await until(lambda: informer.get("shop/c"))
    assert informer.lists == 1


async def test_what_was_deleted_during_a_410_gap_is_noticed(server: Any, informer: Informer, config_map: Make) -> None:
    for name in "abc":
        server.put(f"{MAPS}/{name}", config_map(name))
    gone: list[str] = []
    informer.add_handler(lambda old, new: gone.append(name_of(old)) if new is None and old else None)
    informer.start()
    await informer.wait_synced(1)
    server.mute = True
    server.remove(f"{MAPS}/b")
    server.put(f"{MAPS}/d", config_map("d"))
    server.compact()
    server.mute = False
    server.drop()
    await until(lambda: informer.get("shop/d"))
    assert gone == ["b"]
    assert informer.lists == 2
    assert sorted(map(name_of, informer.list())) == ["a", "c", "d"]


async def test_silence_is_noticed_and_nothing_missed(server: Any, informer: Informer, config_map: Make) -> None:
    informer.start()
    await informer.wait_synced(1)
    server.put(f"{MAPS}/z", config_map("z"))
    await until(lambda: informer.get("shop/z"))
    server.mute = True  # the connection stands, but nothing comes any more
    server.put(f"{MAPS}/a", config_map("a"))
    await until(lambda: informer.get("shop/a"))
    assert informer.lists == 1


async def test_it_survives_a_server_that_is_down(server: Any, informer: Informer, config_map: Make) -> None:
    server.down = True
    server.put(f"{MAPS}/a", config_map("a"))
    informer.start()
    await asyncio.sleep(0.08)
    assert not informer.synced
    server.down = False
    await informer.wait_synced(2)
    assert informer.get("shop/a")


async def test_it_reads_your_writes(server: Any, informer: Informer, config_map: Make) -> None:
    server.put(f"{MAPS}/z", config_map("z"))
    informer.start()
    await informer.wait_synced(1)
    server.mute = True
    written = server.put(f"{MAPS}/a", config_map("a"))
    informer.observe(written)
    assert informer.get("shop/a") == written


async def test_an_old_answer_does_not_bring_back_the_dead(server: Any, informer: Informer, config_map: Make) -> None:
    informer.start()
    await informer.wait_synced(1)
    written = server.put(f"{MAPS}/a", config_map("a"))
    server.remove(f"{MAPS}/a")
    server.put(f"{MAPS}/b", config_map("b"))
    await until(lambda: informer.get("shop/b"))
    informer.observe(written)
    assert informer.get("shop/a") is None


async def test_a_write_is_told_once(server: Any, informer: Informer, config_map: Make) -> None:
    server.put(f"{MAPS}/z", config_map("z"))
    informer.start()
    await informer.wait_synced(1)
    heard: list[str] = []
    informer.add_handler(lambda old, new: heard.append(name_of(new)) if new else None)
    heard.clear()
    informer.observe(server.put(f"{MAPS}/a", config_map("a")))
    server.put(f"{MAPS}/b", config_map("b"))
    await until(lambda: informer.get("shop/b"))
    assert heard == ["a", "b"]


async def test_our_delete_is_not_undone_by_a_late_event(server: Any, informer: Informer, config_map: Make) -> None:
    a = server.put(f"{MAPS}/a", config_map("a"))
    informer.start()
    await informer.wait_synced(1)
    server.put(f"{MAPS}/a", config_map("a", late="yes"))  # its event is still in the stream
    server.remove(f"{MAPS}/a")
    informer.observe_gone(a)
    seen: list[str] = []
    informer.add_handler(lambda old, new: seen.append(name_of(new)) if new else None)
    server.put(f"{MAPS}/b", config_map("b"))
    await until(lambda: informer.get("shop/b"))
    assert seen == ["b"]


async def test_a_recreated_object_is_two_events(server: Any, informer: Informer, config_map: Make) -> None:
    server.put(f"{MAPS}/a", config_map("a", x="1"))
    informer.start()
    await informer.wait_synced(1)
    heard: list[tuple[bool, bool]] = []
    informer.add_handler(lambda old, new: heard.append((old is not None, new is not None)))
    heard.clear()
    server.mute = True
    server.remove(f"{MAPS}/a")
    server.put(f"{MAPS}/a", config_map("a", x="2"))
    server.compact()
    server.mute = False
    server.drop()
    await until(lambda: informer.lists == 2 and heard)
    assert heard == [(True, False), (False, True)]


async def test_indexes_follow_changes(server: Any, client: Client, config_map: Make) -> None:
    informer = Informer(client, kinds.CONFIG_MAP, indexes={"colour": lambda o: [o["data"]["colour"]]})
    informer.start()
    await informer.wait_synced(1)
    server.put(f"{MAPS}/a", config_map("a", colour="red"))
    server.put(f"{MAPS}/b", config_map("b", colour="red"))
    await until(lambda: len(informer.by_index("colour", "red")) == 2)
    server.put(f"{MAPS}/a", config_map("a", colour="blue"))
    await until(lambda: informer.by_index("colour", "blue"))
    assert [name_of(o) for o in informer.by_index("colour", "red")] == ["b"]
    await informer.stop()


async def test_a_malformed_event_does_not_make_it_deaf(server: Any, informer: Informer, config_map: Make) -> None:
    informer.start()
    await informer.wait_synced(1)
    server.emit_raw(MAPS, {"type": "ADDED", "object": {"metadata": {}}})
    server.put(f"{MAPS}/a", config_map("a"))
    await until(lambda: informer.get("shop/a"))
