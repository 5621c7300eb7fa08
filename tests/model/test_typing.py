"""What a type checker sees. The functions below are checked by mypy and never run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncSession

from sampan import Bucket, Cache, Config, Database, Grant, Reply, Secret, Service, Topic


@dataclass
class Placed:
    id: int


async def check_handles(
    db: Database,
    cache: Cache,
    topic: Topic[Placed],
    bucket: Bucket,
    secret: Secret,
    config: Config[Placed],
    users: Service,
) -> None:
    assert_type(topic.publish(), Grant)
    await assert_type(topic.publish(Placed(1)), Coroutine[Any, Any, None])
    assert_type(topic.subscribe("m:f"), Grant)
    await topic.publish("no event")  # type: ignore[call-overload]
    async with db.transaction() as session:
        assert_type(session, AsyncSession)
        await topic.publish(Placed(1), session)
    async for one in db.session():
        assert_type(one, AsyncSession)
    assert_type(await cache.get("k"), bytes | None)
    assert_type(await bucket.get("k"), bytes | None)
    async for key in bucket.list("p"):
        assert_type(key, str)
    assert_type(secret["k"], str)
    assert_type(config.value, Placed)
    assert_type(config.on_change(lambda value: print(value.id)), Callable[[], None])
    reply = await users.client.get("/users/1", timeout=2.0)
    assert_type(reply, Reply)
    assert_type(reply.decode(Placed), Placed)


def test_a_topic_takes_its_type_from_its_event() -> None:
    topic = Topic("placed", Placed)
    assert_type(topic, Topic[Placed])
    assert topic.type is Placed
