"""Order and times of starting and stopping, readiness, background functions: within this process."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sampan.model import Application, Every, Service
from sampan.service import background, lifecycle, main
from sampan.service.http.readiness import Check, Degraded, Readiness
from sampan.service.lifecycle import KEPT_SECONDS, START, STOP, STOP_SECONDS, Lifecycle, Stage, StartFailure
from sampan.service.process import Process, StartError


class Part:
    """Writes down what happens to it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    async def start(self) -> None:
        self.told.append(f"start {self.name}")

    async def stop(self) -> None:
        self.told.append(f"stop {self.name}")


class Fails(Part):
    async def start(self) -> None:
        await asyncio.sleep(0.01)
        raise OSError("no luck")


class Hangs(Part):
    """Neither starts nor stops, whatever it is told."""

    async def start(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        while True:
            try:
                await asyncio.sleep(5)
                return
            except asyncio.CancelledError:
                self.told.append("would not be cancelled")


async def test_stages_start_and_stop_in_their_order() -> None:
    told: list[str] = []
    life = Lifecycle()
    for stage in (Stage.CONSUMERS, Stage.SERVERS, Stage.REGISTRATION, Stage.TELEMETRY, Stage.BACKGROUND):
        life.add(stage, stage.value, Part(stage.value, told))
    life.add(Stage.RESOURCES, "resources", Part("resources", told))
    await life.start()
    await life.stop()
    assert told == [f"start {stage.value}" for stage in START] + [f"stop {stage.value}" for stage in STOP]


async def test_what_is_in_one_stage_starts_at_the_same_time() -> None:
    meeting = asyncio.Barrier(3)

    class Meets(Part):
        async def start(self) -> None:
            await meeting.wait()

    life = Lifecycle()
    for number in range(3):
        life.add(Stage.RESOURCES, str(number), Meets("", []))
    async with asyncio.timeout(10):
        await life.start()
    await life.stop()


async def test_a_failing_start_names_the_part_and_what_had_started_is_stopped() -> None:
    told: list[str] = []
    life = Lifecycle()
    life.add(Stage.RESOURCES, "pool", Part("pool", told))
    life.add(Stage.SERVERS, "http", Fails("http", told))
    life.add(Stage.SERVERS, "slow", Hangs("slow", told))
    life.add(Stage.CONSUMERS, "later", Part("later", told))
    with pytest.raises(StartFailure, match="http: no luck"):
        await life.start()
    await life.stop()
    assert told == ["start pool", "stop http", "stop pool"]


async def test_a_start_that_hangs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "START_SECONDS", 0.05)
    life = Lifecycle()
    life.add(Stage.RESOURCES, "broker", Hangs("broker", []))
    with pytest.raises(StartFailure, match=r"broker: not started within 0\.05 s"):
        await life.start()


async def test_what_will_not_stop_is_left_behind_and_the_rest_has_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    life = Lifecycle()
    life.add(Stage.CONSUMERS, "stubborn", Hangs("stubborn", told))
    life.add(Stage.RESOURCES, "pool", Part("pool", told))
    life._started = {stage: list(parts) for stage, parts in life._added.items()}
    begun = time.monotonic()
    await life.stop(deadline=begun)  # no time at all
    assert told == ["would not be cancelled", "stop pool"]
    assert "stopping stubborn took more than" in caplog.text


def test_the_times_of_all_stages_add_up() -> None:
    drain = 0.5
    assert drain + sum(KEPT_SECONDS.values()) <= STOP_SECONDS < main._BUDGET_SECONDS < 30
    assert set(KEPT_SECONDS) == set(Stage) == set(START) == set(STOP)


# -- readiness -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_checks_left() -> Iterator[None]:
    before = dict(lifecycle.USER_CHECKS)
    yield
    lifecycle.USER_CHECKS.clear()
    lifecycle.USER_CHECKS.update(before)


async def test_a_check_that_hangs_is_no_answer_and_the_others_are_heard() -> None:
    stubborn = Hangs("", [])

    async def well() -> None: ...

    readiness = Readiness(
        [Check("well", well, lambda: True), Check("hung", stubborn.stop, lambda: False, timeout=0.05)]
    )
    assert await readiness.report() == (False, {"status": "starting"})
    readiness.started = True
    ready, body = await readiness.report()
    assert ready and body == {"status": "degraded", "checks": {"well": "ok", "hung": "no answer within 0.05 s"}}
    readiness.draining = True
    assert await readiness.report() == (False, {"status": "draining"})


async def test_those_who_ask_at_once_share_an_answer() -> None:
    asked = 0

    async def probe() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)

    readiness = Readiness([Check("x", probe, lambda: True)])
    readiness.started = True
    await asyncio.gather(*(readiness.report() for _ in range(50)))
    await readiness.report()
    assert asked == 1


async def test_verbose_tells_times_and_the_last_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sampan.service.http import readiness as module

    monkeypatch.setattr(module, "_KEEP_SECONDS", -1.0)
    answers: list[Exception | None] = [None, None, Degraded("slow today"), ValueError("gone\nsecond line"), None]

    async def probe() -> None:
        await asyncio.sleep(0.01)
        if (error := answers.pop(0)) is not None:
            raise error

    readiness = Readiness([Check("db", probe, lambda: True)])
    readiness.started = True
    reports = [await readiness.report(verbose=True) for _ in range(5)]
    assert [ready for ready, _ in reports] == [True, True, False, False, True]
    last = reports[-1][1]["checks"]["db"]
    assert last["answer"] == "ok" and last["required"] and last["seconds"] >= 0.01
    assert [entry["answer"] for entry in last["history"]] == ["ok", "slow today", "ValueError: gone", "ok"]
    assert last["since"] == last["history"][-1]["at"]


async def test_checks_of_ones_own() -> None:
    @lifecycle.readiness_check("licence")
    def says_no() -> bool:
        return False

    @lifecycle.readiness_check("warm", required=False)
    async def raises() -> None:
        raise RuntimeError("cold")

    @lifecycle.readiness_check("fine")
    def fine() -> None: ...

    readiness = Readiness()
    readiness.started = True
    ready, body = await readiness.report()
    assert not ready
    assert body["checks"] == {
        "licence": "RuntimeError: the check says no",
        "warm": "RuntimeError: cold",
        "fine": "ok",
    }


# -- background ----------------------------------------------------------------------------------------------------

calls: list[float] = []
running = 0
most = 0


async def beats() -> None:
    global running, most
    running += 1
    most = max(most, running)
    calls.append(time.monotonic())
    await asyncio.sleep(0.12 if len(calls) == 1 else 0)
    running -= 1


def beats_in_a_thread() -> None:
    calls.append(time.monotonic())


async def crashes() -> None:
    calls.append(time.monotonic())
    raise ValueError(f"crash {len(calls)}")


async def returns() -> None:
    calls.append(time.monotonic())


class Operator:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def start(self) -> None:
        self.told.append("start")

    async def stop(self) -> None:
        self.told.append("stop")


operator = Operator()
HERE = __name__


def process(*declared: Any) -> Process:
    made = Process(Application("a", services=[Service("s", background=list(declared))]).service("s"))
    background.bind_background(made, list(declared))
    calls.clear()
    return made


async def until(condition: Any, what: str) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, what
        await asyncio.sleep(0.005)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """An import string finds this module as pytest has loaded it."""
    import sys

    monkeypatch.setitem(sys.modules, "this_test", sys.modules[HERE])
    return "this_test"


@pytest.mark.parametrize("name", ["beats", "beats_in_a_thread"])
async def test_periodic_functions_never_overlap_and_keep_their_times(name: str, here: str) -> None:
    made = process(Every(0.05, f"{here}:{name}", jitter=0))
    begun = time.monotonic()
    await made.start(Stage.CONSUMERS)
    await until(lambda: len(calls) >= 6, "six runs")
    await made.stop()
    assert most <= 1
    for at in calls[1:]:  # each at a multiple of the period, whatever the first run took
        assert at - begun >= 0.049
    count = len(calls)
    await asyncio.sleep(0.12)
    assert len(calls) == count
    runs = made.registry.counter("background_runs_total", "", ("function", "outcome"))
    assert runs.value(f"{here}:{name}", "ok") >= 5


async def test_a_function_that_crashes_runs_again_and_degrades(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_WAIT", 0.01)
    made = process(f"{here}:crashes")
    made.readiness.started = True
    await made.start(Stage.CONSUMERS)
    await until(lambda: len(calls) >= 5, "five runs")
    ready, body = await made.readiness.report()
    assert ready and body["status"] == "degraded"
    assert "ValueError: crash" in body["checks"][f"background {here}:crashes"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert gaps[3] > gaps[0]
    await made.stop()


async def test_a_function_that_returns_is_not_run_again(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_WAIT", 0.01)
    made = process(f"{here}:returns")
    await made.start(Stage.CONSUMERS)
    await asyncio.sleep(0.1)
    assert len(calls) == 1
    await made.stop()


async def test_an_operator_starts_and_stops_with_the_process(here: str) -> None:
    made = process(f"{here}:operator")
    await made.start(Stage.CONSUMERS)
    await made.stop()
    assert operator.told == ["start", "stop"]


def test_what_cannot_run_in_the_background_is_said(here: str) -> None:
    with pytest.raises(StartError, match=r'neither an async function .*Every\(60, "this_test:beats_in_a_thread"\)'):
        process(f"{here}:beats_in_a_thread")
    with pytest.raises(StartError, match="not a function"):
        process(Every(1, f"{here}:HERE"))


def test_what_is_declared_wrong_is_found_without_running() -> None:
    app = Application(
        "a",
        services=[Service("s", background=["sampan.service.background:nothing", Every(0, "json:loads")])],
    )
    words = "\n".join(str(problem) for problem in app.problems())
    assert "background='sampan.service.background:nothing'" in words and "the period is above 0 seconds" in words
