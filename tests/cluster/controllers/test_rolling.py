"""The arithmetic of rollouts: how many replicas each ReplicaSet gets."""

import pytest

from sampan.cluster.controllers import rolling
from sampan.kube.objects import Object


def deployment(replicas: int, surge: int | str = "25%", unavailable: int | str = "25%") -> Object:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    return {"metadata": {"name": "web"}, "spec": {"replicas": replicas, "strategy": strategy}}


def replica_set(name: str, replicas: int, available: int | None = None, maximum: int = 0, desired: int = 0) -> Object:
    annotations = {rolling.MAXIMUM: str(maximum), rolling.DESIRED: str(desired)} if maximum else {}
    return {
        "metadata": {"name": name, "creationTimestamp": f"2026-01-01T00:00:0{name[-1]}Z", "annotations": annotations},
        "spec": {"replicas": replicas},
        "status": {"availableReplicas": replicas if available is None else available},
    }


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (3, "25%", "25%", (1, 0)),
        (10, "25%", "25%", (3, 2)),
        (1, 0, "50%", (0, 1)),  # both come to nothing: one may be unavailable
        (2, 5, 3, (5, 2)),
        (0, 1, 1, (1, 0)),
    ],
)
def test_surge_rounds_up_and_unavailable_down(
    replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]
) -> None:
    assert rolling.limits(deployment(replicas, surge, unavailable)) == expected


def test_a_new_set_takes_what_surge_leaves_room_for() -> None:
    assert rolling.new_size(deployment(4, 1, 0), None, [replica_set("old-1", 4)]) == 1
    assert rolling.new_size(deployment(4, 1, 0), replica_set("new-2", 1), [replica_set("old-1", 3)]) == 2
    assert rolling.new_size(deployment(4, 1, 0), None, []) == 4


def test_old_pods_stay_until_new_ones_are_available() -> None:
    wanted = deployment(4, 1, 0)
    assert rolling.old_sizes(wanted, replica_set("new-2", 1, available=0), [replica_set("old-1", 4)]) == []
    sizes = rolling.old_sizes(wanted, replica_set("new-2", 1, available=1), [replica_set("old-1", 4)])
    assert [size for _, size in sizes] == [3]


def test_old_pods_that_are_not_available_go_first() -> None:
    broken, good = replica_set("old-1", 2, available=0), replica_set("old-2", 3)
    sizes = {
        s["metadata"]["name"]: n
        for s, n in rolling.old_sizes(deployment(4, 1, 0), replica_set("new-3", 0), [broken, good])
    }
    assert sizes == {"old-1": 1}


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), ("25%", "25%"), (3, 2), ("100%", "0%")])
@pytest.mark.parametrize("replicas", [1, 3, 4, 10])
def test_a_rollout_ends_and_never_breaks_its_bounds(replicas: int, surge: int | str, unavailable: int | str) -> None:
    wanted = deployment(replicas, surge, unavailable)
    up, down = rolling.limits(wanted)
    new, old = replica_set("new-2", 0), replica_set("old-1", replicas)
    for _ in range(200):
        new["spec"]["replicas"] = rolling.new_size(wanted, new, [old])
        for changed, size in rolling.old_sizes(wanted, new, [old]):
            changed["spec"]["replicas"] = size
            changed["status"]["availableReplicas"] = min(size, changed["status"]["availableReplicas"])
        total = new["spec"]["replicas"] + old["spec"]["replicas"]
        available = new["status"]["availableReplicas"] + old["status"]["availableReplicas"]
        assert total <= replicas + up
        assert available >= replicas - down
        if new["status"]["availableReplicas"] == replicas and old["spec"]["replicas"] == 0:
            return
        if new["status"]["availableReplicas"] < new["spec"]["replicas"]:
            new["status"]["availableReplicas"] += 1  # one more became ready
    pytest.fail("the rollout did not end")


def test_scaling_in_the_middle_is_shared_in_proportion() -> None:
    new = replica_set("new-2", 5, maximum=13, desired=10)
    old = replica_set("old-1", 8, maximum=13, desired=10)
    sizes = {s["metadata"]["name"]: n for s, n in rolling.proportional(deployment(15, 3, 2), new, [old])}
    assert sizes == {"old-1": 11, "new-2": 7}


def test_scaling_a_settled_deployment_touches_its_one_set() -> None:
    new = replica_set("new-2", 3, maximum=4, desired=3)
    assert [(s["metadata"]["name"], n) for s, n in rolling.proportional(deployment(5), new, [])] == [("new-2", 5)]


def test_scaling_to_nothing_empties_every_set() -> None:
    new, old = replica_set("new-2", 2, maximum=5, desired=4), replica_set("old-1", 3, maximum=5, desired=4)
    assert {n for _, n in rolling.proportional(deployment(0), new, [old])} == {0}
