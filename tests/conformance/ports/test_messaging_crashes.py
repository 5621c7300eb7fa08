"""An event that ends the process handling it: it is set aside after its tries, and takes nobody with it."""

from __future__ import annotations

import asyncio
import collections
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.service.messaging.alone import Alone
from sampan.service.messaging.kafka_partitions import Track
from sampan.service.messaging.letters import replay
from sampan.service.messaging.port import DeadLetter
from tests.conformance.ports.messaging import Placed, connected, consuming, eventually, topic_on

EVENTS, DEADLY, SLOW, ATTEMPTS = 20, 7, 0, 2
SYSTEM = f"""
import asyncio, os, signal
from pathlib import Path
from msgspec import Struct
from sampan import Application, Service, Topic
from sampan.service.messaging import consumer, nats

consumer.ACK_SECONDS = nats.ACK_SECONDS = 1.0  # how long what a dead process had waits on NATS

class Placed(Struct):
    number: int
    note: str = ""

placed = Topic(os.environ["TOPIC"], Placed)
worker = Service("worker", uses=[placed.subscribe("system:on", group="g", concurrency=4, attempts={ATTEMPTS})])
app = Application("crashes", services=[worker])

def say(word, number):
    with Path("said").open("a") as file:
        file.write(f"{{word}} {{number}}\\n")

async def on(event: Placed) -> None:
    say("begun", event.number)
    if event.number == {DEADLY}:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(1.0 if event.number == {SLOW} else 0.01)
    say("ended", event.number)
"""


async def test_an_event_that_kills_its_process_is_set_aside_and_the_others_are_handled(
    broker_uri: str, name: str, serve: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "system.py").write_text(SYSTEM)
    uri = broker_uri + ("?session_timeout_ms=1500" if broker_uri.startswith("kafka") else "")

    def said(word: str) -> collections.Counter[int]:
        lines = (tmp_path / "said").read_text().splitlines() if (tmp_path / "said").exists() else []
        return collections.Counter(int(line.split()[1]) for line in lines if line.startswith(f"{word} "))

    async with connected(uri) as broker:
        topic = topic_on(broker, name)
        for number in range(EVENTS):
            await topic.publish(Placed(number, "näme"))
        deaths: list[int] = []
        worker = serve("worker", SAMPAN_MESSAGING_URI=uri, TOPIC=name)

        async def over() -> bool:
            nonlocal worker
            if worker.process.poll() is not None:
                deaths.append(worker.process.returncode)
                assert len(deaths) <= 3 * ATTEMPTS, worker.output()[-3000:]
                worker = serve("worker", SAMPAN_MESSAGING_URI=uri, TOPIC=name)
            handled = set(said("ended")) == set(range(EVENTS)) - {DEADLY}
            return handled and "event set aside" in worker.output()

        await eventually(over, 90)
        assert set(deaths) == {-signal.SIGKILL}
        assert ATTEMPTS <= len(deaths) == said("begun")[DEADLY]

        async def one() -> bool:  # those of innocents are struck out behind their last tries
            return len(await broker.dead_letters(name, "g")) == 1

        await eventually(one)
        letters = await broker.dead_letters(name, "g")
        assert [letter.payload for letter in letters] == ['{"number":7,"note":"näme"}'.encode()]
        assert letters[0].error.startswith("ProcessEnded: nothing was heard of its last try")
        await topic.publish(Placed(100))
        await eventually(lambda: said("ended")[100] == 1)
        assert worker.stop() == 0
        assert len(await broker.dead_letters(name, "g")) == 1
        # mended, and put back
        seen: list[int] = []

        async def mended(event: Placed) -> None:
            seen.append(event.number)

        async with consuming(broker, name, mended, attempts=ATTEMPTS):
            await replay(broker, letters[0])
            await eventually(lambda: seen == [DEADLY])
        assert await broker.dead_letters(name, "g") == []


async def test_a_note_is_written_and_struck_out(broker_uri: str, name: str) -> None:
    async with connected(broker_uri) as broker:
        note = DeadLetter("e:g:0:try-3", name, "g", b"{}", {}, "e", error="ProcessEnded", attempts=3)
        await broker.ready()
        await broker.set_aside(note)
        assert [letter.id for letter in await broker.dead_letters(name, "g")] == [note.id]
        await broker.drop(note)
        assert await broker.dead_letters(name, "g") == []


async def test_one_alone_waits_for_the_others_and_keeps_newcomers_out() -> None:
    room, inside, order = Alone(), 0, []

    async def together(number: int) -> None:
        nonlocal inside
        await room.enter()
        inside += 1
        await asyncio.sleep(0.01)
        inside -= 1
        order.append(number)
        room.leave()

    async def alone() -> None:
        async with room.alone():
            assert inside == 0
            await asyncio.sleep(0.02)
            assert inside == 0
            order.append(-1)

    first = [asyncio.create_task(together(number)) for number in range(3)]
    await asyncio.sleep(0)
    lonely = [asyncio.create_task(alone()) for _ in range(2)]
    await asyncio.sleep(0)
    later = [asyncio.create_task(together(number)) for number in range(3, 6)]
    cancelled = asyncio.create_task(alone())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({*first, *lonely, *later})
    assert sorted(order[:3]) == [0, 1, 2]
    assert order[3:5] == [-1, -1]
    assert sorted(order[5:]) == [3, 4, 5]


@pytest.mark.parametrize("note", ["", "nonsense", "2", "-1 5", "x 7"])
def test_a_partition_without_a_note_is_new(note: str) -> None:
    track = Track(10, note)
    assert track.attempt(10) == 1
    assert track.commit() == (10, "1 1034")


def test_a_partition_counts_the_members_that_died_with_it_until_what_they_had_is_through() -> None:
    track = Track(10, Track(10).commit()[1])
    assert [track.attempt(offset) for offset in (10, 1033, 1034)] == [2, 2, 1]
    assert track.commit() == (10, "2 1034")
    for offset in range(10, 20):
        track.waiting.append(offset)
    for offset in (11, 12, 10):
        track.handled(offset)
    assert track.commit() == (13, "2 1034")  # what was had in hand goes no further for it
    third = Track(13, track.commit()[1])
    assert (third.attempt(13), third.attempt(1034)) == (3, 1)
    third.position = 1034
    assert third.commit() == (1034, "1 2058")
    assert third.farewell() == (1034, "")
