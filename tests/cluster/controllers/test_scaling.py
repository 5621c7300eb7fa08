"""The autoscaler's arithmetic, against the cases that Kubernetes' own documentation and behaviour give."""

from datetime import UTC, datetime, timedelta

import pytest

from sampan.cluster.controllers import scaling
from sampan.cluster.runtime import Usage
from sampan.kube.objects import Object

HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(name: str, *, phase: str = "Running", ready: bool = True, cpu: str = "100m") -> Object:
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu, "memory": "100"}}}]},
        "status": {
            "phase": phase,
            "startTime": HOUR_AGO,
            "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": HOUR_AGO}],
        },
    }


def usage(**cores: float) -> dict[tuple[str, str], dict[str, Usage]]:
    when = datetime.now(UTC)
    return {("shop", name): {"main": Usage(value, 50, when, 10.0)} for name, value in cores.items()}


def replicas(pods: list[Object], measured: scaling.Measured, percent: int, current: int) -> int:
    known = scaling.sort_pods(pods, "cpu", None, measured)
    wanted = {n: round(r * percent / 100) for n, r in scaling.requests(pods, "cpu", None).items()}
    return scaling.replicas_for(known, wanted, current, 0.1, 0.1)[0]


def test_twice_the_target_doubles() -> None:
    assert replicas([pod("a"), pod("b")], usage(a=0.1, b=0.1), 50, 2) == 4


def test_a_deviation_of_a_tenth_is_tolerated() -> None:
    assert replicas([pod("a"), pod("b")], usage(a=0.055, b=0.055), 50, 2) == 2
    assert replicas([pod("a"), pod("b")], usage(a=0.056, b=0.056), 50, 2) == 3


def test_idle_pods_scale_down_rounding_up() -> None:
    assert replicas([pod(n) for n in "abc"], usage(a=0.01, b=0.01, c=0.04), 50, 3) == 2


def test_a_pod_without_measurement_counts_as_idle_when_scaling_up() -> None:
    assert replicas([pod("a"), pod("b")], usage(a=0.15), 50, 2) == 3


def test_a_pod_without_measurement_counts_as_on_target_when_scaling_down() -> None:
    assert replicas([pod(n) for n in "abc"], usage(a=0.01, b=0.01), 50, 3) == 2


def test_an_unready_pod_dampens_scaling_up() -> None:
    assert replicas([pod("a"), pod("b", phase="Pending")], usage(a=0.15), 50, 2) == 3


def test_pods_going_away_are_left_out() -> None:
    going = pod("b")
    going["metadata"]["deletionTimestamp"] = HOUR_AGO
    assert scaling.sort_pods([pod("a"), going], "cpu", None, usage(a=0.1, b=0.1)).use == {"a": 100}


def test_cpu_of_a_starting_pod_is_not_trusted() -> None:
    started = datetime.now(UTC) - timedelta(seconds=5)
    young = pod("a")
    young["status"]["startTime"] = young["status"]["conditions"][0]["lastTransitionTime"] = started.isoformat()
    assert scaling.sort_pods([young], "cpu", None, usage(a=0.1)).unready == {"a"}
    assert scaling.sort_pods([young], "memory", None, usage(a=0.1)).use == {"a": 50_000}


def test_a_missing_request_is_an_error_that_names_the_container() -> None:
    bare = pod("a")
    bare["spec"]["containers"][0]["resources"] = {}
    with pytest.raises(scaling.MetricError, match="missing request for cpu in container main of Pod a"):
        scaling.requests([bare], "cpu", None)


def test_no_measurement_at_all_is_an_error() -> None:
    with pytest.raises(scaling.MetricError):
        replicas([pod("a")], {}, 50, 1)


UP, DOWN = scaling.DEFAULT_UP, scaling.DEFAULT_DOWN


def test_scaling_down_waits_for_the_window() -> None:
    past = [(90.0, 5), (95.0, 2)]
    assert scaling.stabilize(5, 2, past, 100.0, up=UP, down=DOWN) == 5
    assert scaling.stabilize(5, 2, past, 391.0, up=UP, down=DOWN) == 2


def test_scaling_up_is_immediate_by_default() -> None:
    assert scaling.stabilize(2, 8, [(99.0, 2)], 100.0, up=UP, down=DOWN) == 8


def test_scaling_up_at_most_doubles_or_adds_four() -> None:
    assert scaling.limit_up(1, [], 100.0, UP) == 5
    assert scaling.limit_up(10, [], 100.0, UP) == 20
    assert scaling.limit_up(20, [scaling.Change(95.0, 10)], 100.0, UP) == 20


def test_policies_limit_scaling_down() -> None:
    rule = {**DOWN, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}
    assert scaling.limit_down(5, [], 100.0, rule) == 4
    assert scaling.limit_down(4, [scaling.Change(50.0, -1)], 100.0, rule) == 4
    assert scaling.limit_down(5, [], 100.0, {**rule, "selectPolicy": "Disabled"}) == 5
