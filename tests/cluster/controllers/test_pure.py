"""Small pure parts: hashes, percentages, ranges of indexes, schedules, deletion order."""

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from sampan.cluster.controllers import jobstatus, pods
from sampan.cluster.controllers.cronjob import BadSchedule, due, times
from sampan.cluster.controllers.scheduler import why_not
from sampan.kube.objects import Object

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_a_hash_is_stable_and_safe() -> None:
    template = {"spec": {"containers": [{"name": "a", "image": "b"}]}}
    digest = pods.safe_hash(template)
    assert digest == pods.safe_hash({"spec": {"containers": [{"image": "b", "name": "a"}]}})
    assert digest != pods.safe_hash(template, collisions=1)
    assert set(digest) <= set("bcdfghjklmnpqrstvwxz2456789")


def test_absent_and_empty_make_the_same_template() -> None:
    with_nulls = {"metadata": {"creationTimestamp": None, "labels": {"a": "b", "pod-template-hash": "x"}}, "spec": {}}
    assert pods.template_without(with_nulls, "pod-template-hash") == {"metadata": {"labels": {"a": "b"}}}


def test_percentages_round_as_told() -> None:
    assert pods.scaled("25%", 3, up=True) == 1
    assert pods.scaled("25%", 3, up=False) == 0
    assert pods.scaled(2, 3, up=True) == 2


@pytest.mark.parametrize(("indexes", "text"), [({0, 1, 2, 5}, "0-2,5"), ({3, 4}, "3,4"), (set(), ""), ({7}, "7")])
def test_completed_indexes_are_written_as_ranges(indexes: set[int], text: str) -> None:
    assert jobstatus.ranges(indexes) == text
    assert jobstatus.unranges(text) == indexes


def test_the_latest_missed_time_is_due() -> None:
    last, upcoming, missed = due("*/10 * * * *", None, NOON, NOON + timedelta(minutes=25))
    assert (last, missed) == (NOON + timedelta(minutes=20), 2)
    assert upcoming == NOON + timedelta(minutes=30)


def test_nothing_is_due_before_its_time() -> None:
    assert due("0 * * * *", None, NOON, NOON + timedelta(minutes=59))[0] is None


def test_years_of_missed_times_are_not_walked() -> None:
    last, _, missed = due("* * * * *", None, NOON - timedelta(days=3650), NOON)
    assert missed == 101
    assert last == NOON


def test_a_time_zone_moves_the_schedule() -> None:
    first = next(times("30 9 * * *", "Asia/Tokyo", NOON))
    assert first.astimezone(UTC) == datetime(2026, 3, 2, 0, 30, tzinfo=UTC)


def test_macros_are_understood() -> None:
    assert [t.hour for t in islice(times("@daily", None, NOON), 2)] == [0, 0]


@pytest.mark.parametrize(("schedule", "zone"), [("61 * * * *", None), ("* * *", None), ("* * * * *", "Mars/Base")])
def test_a_bad_schedule_is_an_error(schedule: str, zone: str | None) -> None:
    with pytest.raises(BadSchedule):
        times(schedule, zone, NOON)


def pod(name: str, **status: object) -> Object:
    node = {"nodeName": "n"} if status.pop("node", True) else {}
    metadata = {"name": name, "creationTimestamp": status.pop("created", "2026-01-01T00:00:00Z")}
    return {"metadata": metadata, "spec": node, "status": {"phase": "Running", **status}}


READY = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]


def test_scaling_down_takes_the_least_useful_first() -> None:
    candidates = [
        pod("old-ready", conditions=READY),
        pod("young-ready", conditions=READY, created="2026-02-01T00:00:00Z"),
        pod("unready"),
        pod("pending", phase="Pending"),
        pod("unassigned", phase="Pending", node=False),
    ]
    order = [p["metadata"]["name"] for p in pods.to_delete(candidates, 5, candidates)]
    assert order == ["unassigned", "pending", "unready", "young-ready", "old-ready"]


async def test_slow_start_stops_after_the_first_failing_batch() -> None:
    calls: list[int] = []

    async def make(number: int) -> None:
        calls.append(number)
        if number >= 1:
            raise ValueError("refused")

    done, error = await pods.slow_start(50, make)
    assert done == 1
    assert isinstance(error, ValueError)
    assert calls == [0, 1, 2]


def test_taints_selectors_and_cordons_refuse_pods() -> None:
    node: Object = {"metadata": {"name": "n", "labels": {"disk": "ssd"}}, "spec": {}}
    assert why_not({"nodeSelector": {"disk": "ssd"}}, node) is None
    assert "affinity" in (why_not({"nodeSelector": {"disk": "hdd"}}, node) or "")
    cordoned = {**node, "spec": {"unschedulable": True}}
    assert why_not({}, cordoned) == "node(s) were unschedulable"
    assert why_not({}, cordoned, daemon=True) is None
    tainted = {**node, "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}}
    assert "gpu" in (why_not({}, tainted) or "")
    assert why_not({"tolerations": [{"key": "gpu", "operator": "Exists"}]}, tainted) is None
