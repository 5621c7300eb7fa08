"""Dead letters: set aside once, shown, put back for the one group that failed, dropped."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.cli.main import main
from sampan.service.data.database import SqlDatabase
from sampan.service.messaging.letters import replay
from sampan.service.messaging.port import Broker
from tests.conformance.ports.messaging import (
    Placed,
    connected,
    consuming,
    effects,
    eventually,
    numbers,
    topic_on,
)

SYSTEM = """
from msgspec import Struct
from sampan import Application, Service, Topic

class Placed(Struct):
    number: int
    note: str = ""

placed = Topic(TOPIC, Placed)
app = Application("letters", services=[Service("a", uses=[placed.publish(), placed.subscribe("h:on", group="g")])])
"""


async def fail_all(uri: str, name: str, count: int) -> None:
    async def failing(event: Placed) -> None:
        raise ValueError("never")

    async with connected(uri) as broker:
        topic = topic_on(broker, name)
        async with consuming(broker, name, failing, attempts=1):
            for number in range(count):
                await topic.publish(Placed(number))
            await eventually(lambda: dead(broker, name, count))


async def handle_all(uri: str, name: str, count: int) -> list[int]:
    seen: list[int] = []

    async def handler(event: Placed) -> None:
        seen.append(event.number)

    async with connected(uri) as broker:
        topic_on(broker, name)
        async with consuming(broker, name, handler):
            await eventually(lambda: len(seen) == count)
    return seen


def test_the_command(broker_uri: str, name: str, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    (tmp_path / "system.py").write_text(SYSTEM.replace("TOPIC", repr(name)))
    monkeypatch.setenv("SAMPAN_MESSAGING_URI", broker_uri)
    monkeypatch.setattr(sys, "path", [*sys.path])
    asyncio.run(fail_all(broker_uri, name, 3))

    def sampan(*words: str) -> tuple[int, str, str]:
        sys.modules.pop("system", None)
        capfd.readouterr()  # what was logged before
        code = main(["dead-letters", *words, "--target", str(tmp_path)])
        sys.modules.pop("system", None)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    code, listed, _ = sampan("list", "--json")
    letters = [json.loads(line) for line in listed.splitlines()]
    assert (
        code == 0
        and [(one["topic"], one["group"], one["error"]) for one in letters] == [(name, "g", "ValueError: never")] * 3
    )
    ids: dict[int, str] = {}  # letters are set aside in any order
    for letter in letters:
        code, shown, _ = sampan("show", letter["id"][:12])
        payload = json.loads(shown)["payload"]
        assert (code, payload["note"]) == (0, "")
        ids[payload["number"]] = letter["id"]
    assert sorted(ids) == [0, 1, 2]
    assert sampan("drop", ids[1])[0] == 0
    code, _, error = sampan("replay", "nothing")
    assert code == 1 and "no dead letters begin with 'nothing'" in error
    assert sampan("replay")[0] == 2
    code, said, _ = sampan("replay", "--all", "--group", "g")
    assert code == 0 and said.count("replayed") == 2
    assert sorted(asyncio.run(handle_all(broker_uri, name, 2))) == [0, 2]
    code, listed, said = sampan("list")
    assert (code, listed, said.splitlines()[-1]) == (0, "", "no dead letters")


async def dead(broker: Broker, name: str, count: int, group: str = "g") -> bool:
    return len(await broker.dead_letters(name, group)) == count


async def test_replay_goes_to_the_group_that_failed_and_takes_effect_once(
    broker: Broker, name: str, file: SqlDatabase
) -> None:
    healthy, others = False, []

    async def failing(event: Placed, session: AsyncSession) -> None:
        if not healthy and event.number != 2:
            raise ValueError("ünwell")
        await session.execute(insert(effects).values(number=event.number, by="g"))

    async def other(event: Placed) -> None:
        others.append(event.number)

    topic = topic_on(broker, name, groups=("g", "other"))
    async with (
        consuming(broker, name, failing, database=file, attempts=1) as consumer,
        consuming(broker, name, other, "other"),
    ):
        for number in (1, 2, 3):
            await topic.publish(Placed(number, "näme"))
        await eventually(lambda: dead(broker, name, 2))
        letters = await broker.dead_letters(name, "g")
        assert [letter.payload for letter in letters] == [
            '{"number":1,"note":"näme"}'.encode(),
            '{"number":3,"note":"näme"}'.encode(),
        ]
        assert letters[0].error == "ValueError: \\xfcnwell" and letters[0].attempts == 1 and letters[0].at > 0
        await replay(broker, letters[0])  # too early: it is set aside again, as another letter
        await eventually(lambda: consumer.consumed.value(name, "g", "dead") == 3)
        await eventually(lambda: dead(broker, name, 2))
        healthy = True
        letters = await broker.dead_letters(name, "g")
        for letter in [*letters, letters[0]]:  # one of them twice, as by two people at once
            await replay(broker, letter)
        await eventually(lambda: consumer.consumed.value(name, "g", "ok") >= 3)
        await eventually(lambda: dead(broker, name, 0))
        await topic.publish(Placed(4))
        await eventually(lambda: consumer.consumed.value(name, "g", "ok") == 4 and 4 in others)
    assert sorted(await numbers(file)) == [1, 2, 3, 4]
    assert sorted(others) == [1, 2, 3, 4]


async def test_a_letter_is_kept_once_and_dropped(broker: Broker, name: str) -> None:
    async def failing(event: Placed) -> None:
        raise ValueError(event.number)

    topic = topic_on(broker, name)
    async with consuming(broker, name, failing, attempts=1):
        for number in range(3):
            await topic.publish(Placed(number))
        await eventually(lambda: dead(broker, name, 3))
    first, second, third = await broker.dead_letters(name, "g")
    await broker.set_aside(second)  # who died between setting aside and acknowledging does it again
    assert await dead(broker, name, 3)
    await broker.drop(second)
    await broker.drop(second)
    assert [letter.id for letter in await broker.dead_letters(name, "g")] == [first.id, third.id]
    assert await broker.dead_letters(name, "nobody") == []


async def test_a_keyed_event_that_is_set_aside_lets_its_key_go_on(broker: Broker, name: str) -> None:
    seen: list[Any] = []

    async def handler(event: Placed) -> None:
        if event.number == 0:
            raise ValueError("never")
        seen.append(event.number)

    topic = topic_on(broker, name, key="note", partitions=2)
    for number in range(3):
        await topic.publish(Placed(number, "the key"))
    async with consuming(broker, name, handler, attempts=2):
        await eventually(lambda: seen == [1, 2])
        await eventually(lambda: dead(broker, name, 1))
    (letter,) = await broker.dead_letters(name, "g")
    assert letter.key == "the key"
