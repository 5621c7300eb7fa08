"""Under a steady load: updates and scaling cost no request; a killed pod or cluster costs no acknowledged order."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.system.harness import ROOT, System, listeners, until
from tests.system.load import Load, final_states

pytestmark = pytest.mark.timeout(180)


def rollout_done(shop: System, name: str) -> None:
    shop.kubectl("rollout", "status", f"deployment/{name}", "-n", "shop", "--timeout=60s")


def all_confirmed(shop: System, load: Load) -> None:
    assert load.acknowledged

    def look() -> bool:
        return set(final_states(shop.get("/api/orders?limit=10000"), load.acknowledged)) == {"confirmed"}

    until(look, 40, f"all {len(load.acknowledged)} acknowledged orders are confirmed")


def test_rolling_update_and_undo_fail_no_request(shop: System) -> None:
    with Load(shop.url) as load:
        shop.kubectl("set", "env", "deployment/orders", "-n", "shop", "COLOUR=blue")
        rollout_done(shop, "orders")
        shop.kubectl("rollout", "undo", "deployment/orders", "-n", "shop")
        rollout_done(shop, "orders")
        shop.kubectl("rollout", "restart", "deployment/users", "-n", "shop")
        rollout_done(shop, "users")
    assert load.failures == []
    all_confirmed(shop, load)
    assert len(shop.kubectl("rollout", "history", "deployment/orders", "-n", "shop").splitlines()) > 3


def test_scaling_up_and_down_fails_no_request(shop: System) -> None:
    with Load(shop.url) as load:
        shop.kubectl("delete", "hpa", "inventory", "-n", "shop")
        for replicas in (1, 5, 1, 2):
            shop.kubectl("scale", "deployment/inventory", "-n", "shop", f"--replicas={replicas}")
            rollout_done(shop, "inventory")
            time.sleep(1)
    assert load.failures == []
    all_confirmed(shop, load)


@pytest.mark.parametrize("name", ["orders", "inventory", "payments", "messaging", "orders-db"])
def test_a_killed_pod_loses_no_order(shop: System, name: str) -> None:
    with Load(shop.url) as load:
        time.sleep(1)
        for process in processes_of(shop, name):
            os.kill(process, signal.SIGKILL)
        time.sleep(4)
    all_confirmed(shop, load)


def processes_of(shop: System, name: str) -> list[int]:
    """Host process ids of one pod of `name`: those that listen at its address."""
    pods = shop.objects("pods", "-n", "shop", "-l", f"app.kubernetes.io/name={name}")
    assert pods, f"no pod of {name}"
    found = listeners(pods[0]["status"]["podIP"])
    assert found, f"no process of {name}"
    return found


def test_a_killed_cluster_goes_on_where_it_was(shop: System) -> None:
    with Load(shop.url) as load:
        time.sleep(2)
        shop.kill_cluster()
        time.sleep(1)
    until(lambda: not shop.processes(), 10, "nothing outlives the cluster")
    shop.sampan("up", str(ROOT / "examples/shop"), "--detach")
    all_confirmed(shop, load)
