"""Dead letters: how they travel in headers, and how one is put back."""

from __future__ import annotations

import time
from typing import Any, Final

from sampan.service.messaging.port import EVENT_ID, KEY, ONLY_GROUP, REPLAYS, Broker, DeadLetter, Delivery, Message

_TOPIC, _GROUP, _ERROR, _ATTEMPTS = "sampan-topic", "sampan-group", "sampan-error", "sampan-deliveries"
_LETTER, _AT = "sampan-letter", "sampan-set-aside"
OURS: Final = frozenset({_TOPIC, _GROUP, _ERROR, _ATTEMPTS, _LETTER, _AT, ONLY_GROUP, "nats-msg-id"})


def letter(topic: str, group: str, delivery: Delivery, attempts: int, error: BaseException) -> DeadLetter:
    """What is set aside when `group` cannot handle `delivery`."""
    replays = delivery.headers.get(REPLAYS, "0")
    return DeadLetter(
        id=f"{delivery.id}:{group}:{replays}",
        topic=topic,
        group=group,
        payload=delivery.payload,
        headers=delivery.headers,
        event_id=delivery.id,
        key=delivery.key,
        error=" ".join(f"{type(error).__name__}: {error}".split())[:500],
        attempts=attempts,
        at=time.time(),
    )


def to_headers(letter: DeadLetter) -> dict[str, str]:
    return {
        **{name: value for name, value in letter.headers.items() if name not in OURS},
        _LETTER: letter.id,
        _TOPIC: letter.topic,
        _GROUP: letter.group,
        EVENT_ID: letter.event_id,
        KEY: letter.key,
        _ERROR: letter.error.encode("ascii", "backslashreplace").decode(),
        _ATTEMPTS: str(letter.attempts),
        _AT: f"{letter.at:.3f}",
    }


def from_headers(topic: str, group: str, payload: bytes, headers: dict[str, str], handle: Any) -> DeadLetter:
    return DeadLetter(
        id=headers.get(_LETTER, ""),
        topic=topic,
        group=group,
        payload=payload,
        headers=headers,
        event_id=headers.get(EVENT_ID, ""),
        key=headers.get(KEY, ""),
        error=headers.get(_ERROR, ""),
        attempts=int(headers.get(_ATTEMPTS, "0")),
        at=float(headers.get(_AT, "0")),
        handle=handle,
    )


async def replay(broker: Broker, letter: DeadLetter) -> None:
    """Publish it again for the one group that failed, then delete the letter.

    The event keeps its id: who replays a letter twice (having died in between) gives the group a duplicate, which the
    broker drops within its window and the inbox after that. PublishError leaves the letter where it is.
    """
    times = int(letter.headers.get(REPLAYS, "0")) + 1
    headers = {name: value for name, value in letter.headers.items() if name not in OURS and name != KEY}
    headers |= {EVENT_ID: letter.event_id, ONLY_GROUP: letter.group, REPLAYS: str(times)}
    copy = f"{letter.event_id}:{letter.group}:replay-{times}"
    await broker.publish(Message(letter.topic, letter.payload, copy, headers, letter.key))
    await broker.drop(letter)
