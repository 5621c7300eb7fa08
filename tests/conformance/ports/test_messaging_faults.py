"""A service killed with -9 at the worst moments: what committed is delivered, and takes effect once."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SYSTEM = """
from msgspec import Struct
from sampan import Application, Config, Database, Secret, Service, Topic

class Placed(Struct):
    number: int

class Settings(Struct):
    greeting: str = "hello"
    limit: int = 3

db = Database("work", engine="sqlite")
placed = Topic(TOPIC, Placed)
settings = Config("settings", Settings)
stripe = Secret("stripe", keys=["api-key"])
sender = Service("sender", asgi="sender:app", uses=[db.read_write(), placed.publish(), settings, stripe])
taker = Service("taker", uses=[db.read_write(), placed.subscribe("taker:on_placed", group=TOPIC, attempts=20)])
app = Application("faults", services=[sender, taker])
"""

SENDER = """
import logging, os
from typing import Annotated
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from system import Placed, db, placed, settings, stripe

app = FastAPI()

@app.post("/order/{number}")
async def order(number: int, die: str = "") -> dict[str, int]:
    async with db.transaction() as session:
        await session.execute(text("INSERT INTO orders (number) VALUES (:n)"), {"n": number})
        await placed.publish(Placed(number), session)
        if die == "before":
            os.kill(os.getpid(), 9)
    if die == "after":
        os.kill(os.getpid(), 9)
    return {"number": number}

@app.get("/settings")
async def get_settings(session: Annotated[AsyncSession, Depends(db.session)]) -> dict[str, object]:
    return {"greeting": settings.value.greeting, "limit": settings.value.limit}

@app.get("/leak")
async def leak() -> None:
    logging.getLogger("leaky").warning("key is %s", stripe["api-key"])
    raise RuntimeError(f"cannot pay with {stripe['api-key']}")
"""

TAKER = """
import os
from pathlib import Path
from sqlalchemy import text

async def on_placed(event, session):
    await session.execute(text("INSERT INTO effects (number) VALUES (:n)"), {"n": event.number})
    once = Path(f"die-{event.number}")
    if once.exists():
        once.unlink()
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for name, text in (
        ("system.py", SYSTEM.replace("TOPIC", repr(f"placed-{os.urandom(4).hex()}"))),
        ("sender.py", SENDER),
        ("taker.py", TAKER),
    ):
        (tmp_path / name).write_text(text)
    entries = {
        "bindings/secret-stripe": {"type": "opaque", "api-key": "sk_live_4242/very+secret"},
        "bindings/database-work": {"type": "sqlite", "uri": f"sqlite:///{tmp_path / 'work.db'}"},
        "config/settings": {"greeting": "hi", "limit": "7"},
    }
    for directory, files in entries.items():
        (tmp_path / directory).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / directory / name).write_text(text)
    with sqlite3.connect(tmp_path / "work.db") as connection:
        connection.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE effects (id INTEGER PRIMARY KEY, number INTEGER)")
    return tmp_path


def rows(directory: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(directory / "work.db", timeout=10)
    try:
        return [row[0] for row in connection.execute(query)]
    finally:
        connection.close()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "did not come true in time"
        time.sleep(0.05)


def test_sender_killed_between_commit_and_publish(system: Path, serve: Any, own_nats: Any) -> None:
    own_nats.kill()  # nothing can leave the outbox before the sender dies
    sender = serve("sender", SAMPAN_MESSAGING_URI=own_nats.uri)
    wait_for(lambda: sender.http("/health")[0] == 200)
    wait_for(lambda: rows(system, "SELECT name FROM sqlite_master WHERE name = 'sampan_outbox'") != [])
    assert sender.http("/ready")[0] == 503
    assert sender.http("/order/1", b"")[0] == 200
    assert sender.http("/order/2?die=before", b"")[0] == 0
    sender = serve("sender", SAMPAN_MESSAGING_URI=own_nats.uri)
    wait_for(lambda: sender.http("/health")[0] == 200)
    assert sender.http("/order/3?die=after", b"")[0] == 0
    assert rows(system, "SELECT number FROM orders ORDER BY 1") == [1, 3]
    assert rows(system, "SELECT count(*) FROM sampan_outbox") == [2]
    own_nats.start()
    for _ in range(2):  # two replicas relay at once
        serve("sender", SAMPAN_MESSAGING_URI=own_nats.uri)
    serve("taker", SAMPAN_MESSAGING_URI=own_nats.uri)
    wait_for(lambda: len(rows(system, "SELECT number FROM effects")) == 2)
    time.sleep(0.5)
    assert rows(system, "SELECT number FROM effects ORDER BY id") == [1, 3]
    assert rows(system, "SELECT count(*) FROM sampan_outbox") == [0]


def test_taker_killed_within_its_transaction(system: Path, serve: Any, broker_uri: str, tmp_path: Path) -> None:
    (tmp_path / "die-1").write_text("")
    sender = serve("sender", SAMPAN_MESSAGING_URI=broker_uri)
    taker = serve("taker", SAMPAN_MESSAGING_URI=broker_uri)
    sender.ready()
    assert sender.http("/order/1", b"")[0] == 200
    wait_for(lambda: taker.process.poll() is not None)
    assert rows(system, "SELECT number FROM effects") == []
    second = serve("taker", SAMPAN_MESSAGING_URI=broker_uri).ready()
    assert sender.http("/order/2", b"")[0] == 200
    # the event the dead one held comes again: at once, or when its acknowledgement or heartbeat is overdue (5 to 6 s)
    wait_for(lambda: rows(system, "SELECT number FROM effects ORDER BY number") == [1, 2])
    assert second.stop() == 0


def test_the_whole_life_of_a_service(system: Path, serve: Any, nats_server: Any) -> None:
    """Ready, settings followed, bad ones refused, secrets struck from logs, traces kept, graceful end."""
    service = serve("sender", SAMPAN_MESSAGING_URI=nats_server.uri).ready()
    wanted = {"database work": "ok", "messaging": "ok", "outbox work": "ok"}
    # the broker is connected to after the first answer
    wait_for(lambda: json.loads(service.http("/ready")[1])["checks"].items() >= wanted.items())
    assert json.loads(service.http("/settings")[1]) == {"greeting": "hi", "limit": 7}

    (system / "config/settings/limit").write_text("9")
    wait_for(lambda: json.loads(service.http("/settings")[1])["limit"] == 9)
    (system / "config/settings/limit").write_text("many")
    wait_for(lambda: "refused" in service.output())
    assert json.loads(service.http("/settings")[1])["limit"] == 9

    trace = "0af7651916cd43dd8448eb211c80319c"
    service.http("/leak", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "r1"})
    (system / "bindings/secret-stripe/api-key").write_text("sk_rotated_777\n")
    wait_for(lambda: "secret stripe changed" in service.output())
    service.http("/leak")
    metrics = service.http("/metrics")[1].decode()
    assert 'http_requests_total{method="GET",path="/leak",status="500"} 2' in metrics
    assert 'http_request_duration_seconds_count{method="GET",path="/settings"}' in metrics
    assert 'config_reloads_total{config="settings",outcome="refused"} 1' in metrics

    assert service.stop() == 0
    output = service.output()
    assert "sk_live" not in output and "very+secret" not in output and "sk_rotated" not in output
    lines = [json.loads(line) for line in output.splitlines()]
    leaky = next(line for line in lines if line["logger"] == "leaky")
    assert leaky["message"] == "key is [redacted]" and leaky["severity"] == "WARN" and leaky["service"] == "sender"
    access = next(line for line in lines if line["logger"] == "sampan.access" and line["trace_id"] == trace)
    assert access["attributes"]["http.route"] == "/leak" and access["attributes"]["request_id"] == "r1"
    assert access["span_id"] == leaky["span_id"] != "b7ad6b7169203331"


def test_a_missing_binding_is_a_clear_end(system: Path, serve: Any) -> None:
    service = serve("taker", SERVICE_BINDING_ROOT=str(system / "elsewhere"))
    assert service.process.wait(15) == 2
    output = service.output()
    assert "no binding for database-work" in output and "SAMPAN_DATABASE_WORK_URI" in output
    assert "SAMPAN_MESSAGING_URI" in output
