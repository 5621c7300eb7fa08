"""The choice between instances: less busy of two, failing ones left out for a while, never all of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.service.discovery.balancer import EJECTED_SECONDS, FAILURES, Balancer, NoInstance
from sampan.service.discovery.port import Instance
from sampan.service.telemetry.metrics import Registry


def instances(*numbers: int) -> list[Instance]:
    return [Instance("users", str(number), f"http://u{number}") for number in numbers]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def same_chances() -> Iterator[None]:
    state = random.getstate()
    random.seed(7)
    yield
    random.setstate(state)


def balanced(*numbers: int) -> tuple[Balancer, Clock]:
    clock = Clock()
    balancer = Balancer("users", Registry(), clock)
    balancer.update(instances(*numbers))
    return balancer, clock


def shares(balancer: Balancer, count: int = 300) -> Counter[str]:
    """How often each is picked, one call at a time."""
    found: Counter[str] = Counter()
    for _ in range(count):
        url = balancer.pick()
        found[url] += 1
        balancer.report(url, True)
    return found


def fail(balancer: Balancer, url: str, times: int) -> None:
    for _ in range(times):
        balancer.report(url, False)


def test_nobody_there_is_said() -> None:
    balancer = Balancer("users")
    with pytest.raises(NoInstance, match="users: no instance has been seen yet"):
        balancer.pick()
    balancer.update([])
    with pytest.raises(NoInstance, match="users: none is registered"):
        balancer.pick()


def test_who_failed_a_call_is_not_asked_again_while_there_is_another() -> None:
    balancer, _ = balanced(0, 1, 2)
    for _ in range(50):
        assert balancer.pick(["http://u0", "http://u2"]) == "http://u1"
        balancer.report("http://u1", True)
    assert {balancer.pick(["http://u0", "http://u1", "http://u2"]) for _ in range(30)} == {
        "http://u0",
        "http://u1",
        "http://u2",
    }


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_equal_instances_get_equal_shares(count: int) -> None:
    balancer, _ = balanced(*range(count))
    found = shares(balancer, 1000)
    assert len(found) == count and max(found.values()) < 1.5 * 1000 / count


def test_a_slow_instance_gets_fewer_calls() -> None:
    balancer, _ = balanced(0, 1, 2)
    taken = [balancer.pick() for _ in range(300)]
    counts = Counter(taken)
    assert max(counts.values()) - min(counts.values()) <= 3  # none reported: outstanding calls stay level
    for url in taken:
        if url != "http://u0":  # u0 does not answer
            balancer.report(url, True)
    assert shares(balancer)["http://u0"] == 0


def test_failures_in_a_row_eject_and_time_brings_back() -> None:
    balancer, clock = balanced(0, 1, 2)
    fail(balancer, "http://u0", FAILURES - 1)
    balancer.report("http://u0", True)
    fail(balancer, "http://u0", FAILURES - 1)
    assert shares(balancer)["http://u0"] > 0  # not in a row, and then a success
    fail(balancer, "http://u0", FAILURES)
    assert shares(balancer)["http://u0"] == 0
    clock.now += EJECTED_SECONDS * 1.3
    assert "http://u0" in {balancer.pick() for _ in range(50)}
    fail(balancer, "http://u0", 1)  # on probation one failure is enough, and it stays out for longer
    clock.now += EJECTED_SECONDS * 1.3
    assert shares(balancer)["http://u0"] == 0
    clock.now += EJECTED_SECONDS * 1.3
    assert shares(balancer)["http://u0"] > 0


def test_no_more_than_half_are_ejected() -> None:
    balancer, _ = balanced(0, 1, 2, 3)
    for number in range(4):
        fail(balancer, f"http://u{number}", FAILURES)
    assert set(shares(balancer)) == {"http://u2", "http://u3"}
    alone, _ = balanced(0)
    fail(alone, "http://u0", FAILURES * 3)
    assert alone.pick() == "http://u0"


def test_a_failure_is_the_instances_own_while_others_are_well() -> None:
    balancer, _ = balanced(0, 1)
    assert balancer.report("http://u0", False) and not balancer.report("http://u0", True)
    assert balancer.report("http://u0", False)
    assert not balancer.report("http://u1", False)  # now nobody is well: the callee has failed
    assert not balancer.report("http://u0", False)
    balancer.report("http://u1", True)
    assert balancer.report("http://u0", False) and balancer.report("http://gone", False)
    alone, _ = balanced(0)
    assert not alone.report("http://u0", False)


def test_what_is_no_verdict_only_ends_the_call() -> None:
    balancer, _ = balanced(0, 1)
    for _ in range(FAILURES * 4):
        balancer.report(balancer.pick(), None)
    assert len(shares(balancer)) == 2


def test_an_update_keeps_what_is_known_and_forgets_who_went() -> None:
    balancer, _ = balanced(0, 1, 2)
    fail(balancer, "http://u0", FAILURES)
    busy = [balancer.pick() for _ in range(20)]
    balancer.update(instances(0, 1, 3))
    assert shares(balancer)["http://u0"] == 0  # still out
    assert set(shares(balancer)) == {"http://u3"}  # the new one is idle
    for url in busy:
        balancer.report(url, True)  # also those of u2, which went
    assert set(shares(balancer)) == {"http://u1", "http://u3"}
    assert balancer.known.value("users") == 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("update"), st.sets(st.integers(0, 5))),
            st.tuples(st.just("pick"), st.sampled_from([True, False, None])),
            st.tuples(st.just("wait"), st.floats(0, 200)),
        ),
        max_size=80,
    )
)
def test_whatever_happens_it_picks_one_of_those_there_are(steps: list[tuple[str, object]]) -> None:
    balancer, clock = balanced()
    present: set[str] = set()
    for step, value in steps:
        if step == "update":
            assert isinstance(value, set)
            present = {f"http://u{number}" for number in value}
            balancer.update(instances(*value))
        elif step == "wait":
            assert isinstance(value, float)
            clock.now += value
        elif present:
            url = balancer.pick()
            assert url in present
            balancer.report(url, value)  # type: ignore[arg-type]
        else:
            with pytest.raises(NoInstance):
                balancer.pick()
    assert all(target.outstanding == 0 for target in balancer._listed)
    assert balancer._ejected == sum(target.until > 0 for target in balancer._listed)
