"""Topics of a running local system: a consumer told which of two databases is its own; dead letters from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.system.harness import System, small_system, until

pytestmark = pytest.mark.timeout(300)

SYSTEM = """
from msgspec import Struct
from sampan import Application, Database, Service, Topic

class Placed(Struct):
    number: int

ledger = Database("ledger", engine="sqlite")
other = Database("other", engine="sqlite")
placed = Topic("placed", Placed)
api = Service("api", asgi="letters.web:api", public="/", uses=[placed.publish(), ledger.read_write()])
worker = Service("worker", uses=[
    other.read_write(), ledger.read_write(),
    placed.subscribe("letters.web:on_placed", database=ledger, attempts=2, concurrency=2),
])
app = Application("letters", services=[api, worker])
"""
WEB = """
import json
from pathlib import Path
from sampan.model.bound import Transaction
from letters.system import Placed, ledger, placed

async def on_placed(event: Placed, tx: Transaction) -> None:
    if event.number == 7 and not Path(__file__).with_name("mended").exists():
        raise ValueError("not seven")
    await tx.execute("CREATE TABLE IF NOT EXISTS seen (number INTEGER)")
    await tx.execute("INSERT INTO seen (number) VALUES (:number)", number=event.number)

async def api(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["method"] == "POST":
        await placed.publish(Placed(int((await receive())["body"])))
        body = b"{}"
    else:
        try:
            rows = await ledger.all(int, "SELECT number FROM seen ORDER BY number")
            inbox = await ledger.value(int, "SELECT COUNT(*) FROM sampan_inbox")
            body = json.dumps({"seen": rows, "inbox": inbox}).encode()
        except Exception as error:
            body = json.dumps({"error": str(error)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture(scope="module")
def letters() -> Iterator[System]:
    with small_system("letters", SYSTEM, WEB) as system:
        system.sampan("up", "--detach", "--timeout", "60")
        yield system


def test_a_consumer_writes_to_its_own_database_and_its_dead_letters_are_put_back(letters: System) -> None:
    for number in (5, 7, 7, 9):
        letters.post("/", number)
    until(lambda: letters.get("/").get("seen") == [5, 9], 30, "what can be handled is, in the ledger")
    assert letters.get("/")["inbox"] == 2  # its inbox lies there too

    def listed() -> list[dict[str, object]]:
        said = letters.sampan("dead-letters", "list", "--json").stdout
        return [json.loads(line) for line in said.splitlines()]

    found = until(lambda: found if len(found := listed()) == 2 else [], 30, "both sevens are set aside")
    assert {(one["topic"], one["group"], one["attempts"], one["error"]) for one in found} == {
        ("placed", "worker", 2, "ValueError: not seven")
    }
    first, second = (str(one["id"]) for one in found)
    shown = json.loads(letters.sampan("dead-letters", "show", first).stdout)
    assert shown["payload"] == {"number": 7}
    letters.sampan("dead-letters", "drop", second)
    (letters.directory / "letters/mended").touch()
    assert "replayed" in letters.sampan("dead-letters", "replay", first[:20]).stdout
    until(lambda: letters.get("/").get("seen") == [5, 7, 9], 30, "the one put back is handled")
    assert letters.sampan("dead-letters", "list").stderr == "no dead letters\n"
