"""The parts of resilience by themselves, on a clock of the test's."""

from __future__ import annotations

import asyncio
import random

import pytest

from sampan.model import Breaker
from sampan.service.resilience.adaptive import Gradient, Lag
from sampan.service.resilience.breaker import CLOSED, HALF_OPEN, OPEN, CircuitBreaker
from sampan.service.resilience.budget import RetryBudget
from sampan.service.resilience.bulkhead import Bulkhead, BulkheadFull
from sampan.service.resilience.hedge import first_good
from sampan.service.resilience.limit import Timers


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, **rules: float) -> CircuitBreaker:
    return CircuitBreaker(Breaker(**rules), clock=clock)  # type: ignore[arg-type]


def test_breaker_opens_after_failures_in_a_row_and_waits_longer_after_each_failed_probe() -> None:
    clock, states = Clock(), list[int]()
    tested = CircuitBreaker(Breaker(failures=2, pause=1.0), states.append, clock)
    for failed in (True, False, True, True):
        assert tested.allow()
        tested.failed() if failed else tested.succeeded()
    assert tested.state == OPEN and not tested.allow()
    clock.now += 1.3  # the pause and its jitter
    assert tested.allow() and tested.state == HALF_OPEN and not tested.allow()
    tested.failed()
    clock.now += 1.9
    assert not tested.allow()
    clock.now += 0.6
    assert tested.allow()
    tested.abandoned()  # no verdict: the place is free again
    assert tested.allow()
    tested.succeeded()
    assert tested.state == CLOSED and tested.allow() and tested.allow()
    assert states == [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]


def test_breaker_opens_on_the_error_rate_of_a_window_with_enough_calls() -> None:
    clock = Clock()
    tested = breaker(clock, failures=100, rate=0.5, volume=20, window=10)
    for _ in range(9):  # 18 calls are too few to judge
        tested.succeeded()
        tested.failed()
    assert tested.state == CLOSED
    tested.succeeded()
    tested.failed()
    assert tested.state == OPEN
    later = breaker(clock, failures=100, rate=0.5, volume=20, window=10)
    for number in range(60):  # half fail, but no window holds enough of them
        later.failed() if number % 2 else later.succeeded()
        clock.now += 1
    assert later.state == CLOSED


def test_breaker_needs_all_its_probes() -> None:
    clock = Clock()
    tested = breaker(clock, failures=1, probes=3)
    tested.failed()
    clock.now += 2
    assert [tested.allow() for _ in range(4)] == [True, True, True, False]
    tested.succeeded()
    tested.succeeded()
    assert tested.state == HALF_OPEN
    tested.succeeded()
    assert tested.state == CLOSED


def test_budget_is_a_share_of_calls_and_a_little_each_second() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, 1.0, clock)
    assert sum(budget.take() for _ in range(100)) == 10  # saved up
    for _ in range(100):
        budget.called()
        budget.called()
        budget.called()
        budget.called()
        budget.called()
        assert budget.take()  # one of five
    assert not budget.take()
    clock.now += 3
    assert sum(budget.take() for _ in range(100)) == 3
    assert not RetryBudget(0.0, 0.0, clock).take()


async def test_bulkhead_serves_in_order_and_refuses_beyond_its_queue() -> None:
    bulkhead, order = Bulkhead(1, 2), list[int]()
    assert bulkhead.enter() and not bulkhead.enter()

    async def one(number: int) -> None:
        await bulkhead.wait(10)
        order.append(number)

    waiting = [asyncio.create_task(one(number)) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFull):
        await bulkhead.wait(10)
    waiting[0].cancel()
    await asyncio.wait({waiting[0]})
    third = asyncio.create_task(one(2))
    await asyncio.sleep(0)
    for _ in range(2):
        bulkhead.leave()
        await asyncio.sleep(0.001)
    await asyncio.gather(waiting[1], third)
    assert order == [1, 2] and bulkhead.active == 1
    with pytest.raises(TimeoutError):
        await bulkhead.wait(0.01)
    bulkhead.leave()
    assert bulkhead.active == 0 and bulkhead.enter()


async def test_a_place_that_comes_as_its_waiter_is_cancelled_is_not_lost() -> None:
    bulkhead = Bulkhead(1, 5)
    assert bulkhead.enter()
    first, second = asyncio.create_task(bulkhead.wait(10)), asyncio.create_task(bulkhead.wait(10))
    await asyncio.sleep(0)
    bulkhead.leave()
    first.cancel()
    await asyncio.wait_for(second, 5)
    bulkhead.leave()
    assert bulkhead.enter()


async def test_limits_of_time_both_exact_and_shared() -> None:
    timers = Timers()
    for seconds in (0.02, 1.0):
        with pytest.raises(TimeoutError), timers.limit(seconds) as limit:
            await asyncio.sleep(10)
        assert limit.expired
    with timers.limit(5) as limit:
        await asyncio.sleep(0)
    assert not limit.expired

    async def endless() -> None:
        with timers.limit(60):
            await asyncio.sleep(60)

    task = asyncio.create_task(endless())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):  # from elsewhere: stays what it is
        await task


async def test_hedging_takes_the_first_good_result_and_cancels_the_rest() -> None:
    cancelled, outcomes = list[int](), list[str]()

    async def work(number: int) -> str | None:
        try:
            await asyncio.sleep((60, 0.001, 60)[number])
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return f"result {number}"

    assert await first_good(work, 0.01, 2, bool, outcomes.append) == "result 1"
    assert 0 in cancelled and outcomes[0] == "won"

    async def bad_then_slow(number: int) -> str | None:
        await asyncio.sleep((0.03, 0.05)[number])
        if number == 0:
            raise ValueError("first")
        return ""

    outcomes.clear()
    assert await first_good(bad_then_slow, 0.01, 1, bool, outcomes.append) == ""  # none good: what there was
    assert outcomes == ["failed"]
    with pytest.raises(ValueError, match="first"):
        await first_good(lambda number: bad_then_slow(0), 5, 1, bool, outcomes.append)


def simulate(gradient: Gradient, clock: Clock, places: int, service: float, offered: float, seconds: float) -> float:
    """A server of `places` that take `service` seconds each, under `offered` requests a second. Its rate of replies."""
    free, served, ends = [clock.now] * places, 0, list[tuple[float, float]]()
    until, rng = clock.now + seconds, random.Random(1)
    while clock.now < until:
        clock.now += rng.expovariate(offered)
        for end, began in sorted(ends):
            if end <= clock.now:
                gradient.sample("/", end - began, len(ends))
                ends.remove((end, began))
                served += 1
        if len(ends) < gradient.limit:
            place = min(range(places), key=free.__getitem__)
            free[place] = max(free[place], clock.now) + service
            ends.append((free[place], clock.now))
    return served / seconds


def test_the_limit_finds_the_capacity_and_leaves_a_healthy_service_alone() -> None:
    clock = Clock()
    gradient = Gradient(8, 1000, clock=clock)
    assert simulate(gradient, clock, 10, 0.02, 300, 20) == pytest.approx(300, rel=0.1)  # 500 a second could be served
    assert gradient.limit >= 100
    assert simulate(gradient, clock, 10, 0.02, 2500, 20) == pytest.approx(500, rel=0.1)
    assert 10 <= gradient.limit <= 60  # ten are being served; the others are what latency is made of
    assert simulate(gradient, clock, 200, 0.02, 5000, 20) == pytest.approx(5000, rel=0.15)  # twenty times the places


def test_slow_routes_among_quick_ones_are_no_overload() -> None:
    clock = Clock()
    gradient = Gradient(8, 1000, clock=clock)
    for number in range(5000):
        clock.now += 0.005
        gradient.sample("/slow" if number % 10 == 0 else "/quick", 1.0 if number % 10 == 0 else 0.002, 80)
    assert gradient.limit >= 80


def test_many_at_once_are_no_overload_while_all_are_quick() -> None:
    clock = Clock()
    gradient = Gradient(8, 1000, 0.1, clock)
    gradient.sample("/", 0.001, 1)
    for _ in range(5000):
        clock.now += 0.001
        gradient.sample("/", 0.12, 120)  # 120 connections that ask again at once, at full load
    assert gradient.limit > 120
    for _ in range(5000):
        clock.now += 0.001
        gradient.sample("/", 0.9, int(gradient.limit))
    assert gradient.limit < 20


def test_lag_refuses_a_share_while_the_loop_stays_late() -> None:
    lag = Lag(0.1)
    for late in (3.0, 0.0, 0.4, 0.0, 0.4, 0.4, 0.4, 0.0):  # imports, a computation now and then
        lag.observe(late)
        assert lag.share == 0
    for _ in range(100):
        lag.observe(0.05)
    assert lag.share == 0
    for _ in range(20):
        lag.observe(0.5)
    assert lag.share > 0.7
    for _ in range(100):
        lag.observe(0.01)
    assert lag.share == 0
