"""Controller and manager: level-triggered, exclusive per key, ordered start and stop, writes seen at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, controller_of, owner_reference
from sampan.operator import Controller, Manager, Maps, Owns, Result, Watch
from sampan.operator.lease import LeaderElection

MAPS = "/api/v1/namespaces/shop/configmaps"
Make = Callable[..., Object]


class Copier(Controller):
    """For each ConfigMap a Secret of the same name, owned by it."""

    name, resource = "copier", kinds.CONFIG_MAP

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fail: list[Exception] = []
        self.delay = 0.0
        self.busy: set[str] = set()

    def watches(self) -> tuple[Watch, ...]:
        return Owns(kinds.SECRET), Maps(kinds.NODE, lambda node: ["shop/a"])

    async def reconcile(self, key: str) -> Result | None:
        assert key not in self.busy
        self.busy.add(key)
        await asyncio.sleep(self.delay)
        self.busy.discard(key)
        self.calls.append(key)
        if self.fail:
            raise self.fail.pop()
        source = self.cache.informer(kinds.CONFIG_MAP).get(key)
        secrets = self.cache.informer(kinds.SECRET)
        if source is not None and secrets.get(key) is None:
            metadata = {**source["metadata"], "ownerReferences": [owner_reference(source)]}
            del metadata["uid"], metadata["resourceVersion"]
            await self.client.create(kinds.SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
            assert secrets.get(key) is not None, "the cache reads our own writes"
        return None


@pytest.fixture
def copier() -> Copier:
    return Copier()


async def test_children_are_made_and_their_loss_requeues_the_owner(
    server: Any, client: Client, config_map: Make, copier: Copier
) -> None:
    server.put(f"{MAPS}/a", config_map("a"))
    async with Manager(client).add(copier) as manager:
        await manager.start()
        await manager.settle()
        path = "/api/v1/namespaces/shop/secrets/a"
        reference = controller_of(server.objects[path])
        assert reference is not None and reference["name"] == "a"
        server.remove(path)
        await manager.settle()
        assert path in server.objects


async def test_a_mapped_kind_requeues_its_keys(server: Any, client: Client, copier: Copier) -> None:
    async with Manager(client).add(copier) as manager:
        await manager.start()
        server.put("/api/v1/nodes/n", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
        await manager.settle()
        assert copier.calls == ["shop/a"]


async def test_a_conflict_is_tried_again_quietly(server: Any, client: Client, config_map: Make, copier: Copier) -> None:
    server.put(f"{MAPS}/a", config_map("a"))
    copier.fail = [ApiError(409, "Conflict", "x"), ApiError(409, "Conflict", "x")]
    async with Manager(client).add(copier) as manager:
        await manager.start()
        await manager.settle(quiet=0.05)
        assert copier.counters.conflicts == 2
        assert copier.counters.errors == 0
        assert "/api/v1/namespaces/shop/secrets/a" in server.objects


async def test_an_error_is_counted_and_tried_again(
    server: Any, client: Client, config_map: Make, copier: Copier
) -> None:
    server.put(f"{MAPS}/a", config_map("a"))
    copier.fail = [RuntimeError("boom")]
    async with Manager(client).add(copier) as manager:
        await manager.start()
        await manager.settle(quiet=0.05)
        assert copier.counters.errors == 1
        assert "/api/v1/namespaces/shop/secrets/a" in server.objects


async def test_many_changes_during_a_call_lead_to_one_more(
    server: Any, client: Client, config_map: Make, copier: Copier
) -> None:
    copier.delay = 0.05
    server.put(f"{MAPS}/a", config_map("a"))
    server.put("/api/v1/namespaces/shop/secrets/a", {**config_map("a"), "kind": "Secret"})
    async with Manager(client).add(copier) as manager:
        await manager.start()
        await asyncio.sleep(0.01)
        for n in range(20):
            server.put(f"{MAPS}/a", config_map("a", n=str(n)))
        await manager.settle(quiet=0.15)
        assert len(copier.calls) == 2


async def test_a_reconcile_that_hangs_is_cancelled(server: Any, client: Client, config_map: Make) -> None:
    class Hanging(Copier):
        timeout = 0.02

    controller = Hanging()
    controller.delay = 30
    server.put(f"{MAPS}/a", config_map("a"))
    async with Manager(client).add(controller) as manager:
        await manager.start()
        await asyncio.sleep(0.06)
        assert controller.counters.errors >= 1


async def test_start_says_which_list_is_missing(server: Any, client: Client, copier: Copier) -> None:
    server.down = True
    with pytest.raises(TimeoutError, match="configmaps"):
        await Manager(client).add(copier).start(timeout=0.05)


async def test_events_of_the_same_kind_are_counted(
    server: Any, client: Client, config_map: Make, copier: Copier
) -> None:
    obj = server.put(f"{MAPS}/a", config_map("a"))
    manager = Manager(client).add(copier)
    for _ in range(3):
        copier.events.normal(obj, "Copied", "Copied it")
    await copier.events.flush()
    assert [event["count"] for path, event in server.objects.items() if "/events/a." in path] == [3]
    await manager.stop()


async def test_events_list_in_the_order_they_happened(
    server: Any, client: Client, config_map: Make, copier: Copier
) -> None:
    obj = server.put(f"{MAPS}/a", config_map("a"))
    manager = Manager(client).add(copier)
    reasons = ["Scheduled", "Pulled", "Created", "Started", "Killing"]
    for reason in reasons:
        copier.events.normal(obj, reason, "within one second")
    await copier.events.flush()
    assert [server.objects[path]["reason"] for path in sorted(server.objects) if "/events/a." in path] == reasons
    await manager.stop()


async def test_of_two_candidates_one_leads_and_the_other_follows_on_release(client: Client) -> None:
    times = {"duration": 1.2, "deadline": 0.9, "retry": 0.05}
    one = LeaderElection(client, "op", "default", "one", **times)
    two = LeaderElection(client, "op", "default", "two", **times)
    one.start()
    await asyncio.wait_for(one.acquired(), 5)
    two.start()
    await asyncio.sleep(1.5)
    assert one.leading and not two.leading
    await one.release()
    await asyncio.wait_for(two.acquired(), 5)
    assert two.leading and not one.leading
    await two.release()


async def test_a_leader_that_cannot_renew_stops_before_another_may_start(server: Any, client: Client) -> None:
    one = LeaderElection(client, "op", "default", "one", duration=3.0, deadline=0.3, retry=0.03)
    one.start()
    await asyncio.wait_for(one.acquired(), 5)
    server.down = True
    await asyncio.wait_for(one.lost(), 2.5)
    assert not one.leading
    await one.release()
