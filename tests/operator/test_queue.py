"""One promise of the work queue per test, and a fuzz over all of them."""

import asyncio
import random

import pytest

from sampan.operator.queue import QueueClosed, WorkQueue


async def test_a_key_added_twice_comes_out_once() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert await queue.get() == "a"
    assert len(queue) == 0


async def test_a_key_added_while_held_comes_out_once_more_and_only_after_done() -> None:
    queue = WorkQueue()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done(key)
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_keys_come_out_in_the_order_they_were_added() -> None:
    queue = WorkQueue()
    for key in "cab":
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == ["c", "a", "b"]


async def test_get_waits_for_a_key() -> None:
    queue = WorkQueue()
    taking = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(taking, 1) == "a"


async def test_a_delayed_key_comes_after_its_delay() -> None:
    queue = WorkQueue()
    loop = asyncio.get_running_loop()
    start = loop.time()
    queue.add_after("a", 0.05)
    await asyncio.wait_for(queue.get(), 1)
    assert loop.time() - start >= 0.045


async def test_the_earlier_of_two_delays_wins() -> None:
    queue = WorkQueue()
    queue.add_after("a", 30)
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    assert await asyncio.wait_for(queue.get(), 1) == "a"
    queue.done("a")
    queue.shutdown()


async def test_an_immediate_add_replaces_a_delayed_one() -> None:
    queue = WorkQueue()
    queue.add_after("a", 0.02)
    queue.add("a")
    await queue.get()
    queue.done("a")
    await asyncio.sleep(0.05)
    assert len(queue) == 0


async def test_a_delay_set_while_the_key_is_held_is_kept() -> None:
    queue = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add_after("a", 0.01)
    queue.done("a")
    assert await asyncio.wait_for(queue.get(), 1) == "a"


async def test_failures_back_off_exponentially_up_to_the_ceiling() -> None:
    queue = WorkQueue(base=1, ceiling=5)
    assert [queue.add_rate_limited("a") for _ in range(5)] == [1, 2, 4, 5, 5]
    queue.shutdown()


async def test_forget_ends_the_back_off() -> None:
    queue = WorkQueue(base=1, ceiling=50)
    queue.add_rate_limited("a")
    queue.add_rate_limited("a")
    queue.forget("a")
    assert queue.add_rate_limited("a") == 1
    queue.shutdown()


async def test_a_cancelled_get_does_not_swallow_a_key() -> None:
    queue = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")  # wakes the first
    first.cancel()
    assert await asyncio.wait_for(second, 1) == "a"


async def test_shutdown_ends_every_get() -> None:
    queue = WorkQueue()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.shutdown()
    for task in waiting:
        with pytest.raises(QueueClosed):
            await task
    queue.add("late")
    with pytest.raises(QueueClosed):
        await queue.get()


@pytest.mark.parametrize("seed", range(5))
async def test_fuzz_no_change_is_missed_and_no_key_is_held_twice(seed: int) -> None:
    random_ = random.Random(seed)
    queue = WorkQueue(base=0.0005, ceiling=0.005)
    keys = [f"k{n}" for n in range(8)]
    wanted, seen = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
    held: set[str] = set()

    async def work() -> None:
        while True:
            try:
                key = await queue.get()
            except QueueClosed:
                return
            assert key not in held
            held.add(key)
            version = wanted[key]
            await asyncio.sleep(random_.choice((0, 0, 0.0005)))
            held.discard(key)
            if random_.random() < 0.2:
                queue.add_rate_limited(key)
            else:
                queue.forget(key)
                seen[key] = max(seen[key], version)
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(600):
        key = random_.choice(keys)
        wanted[key] += 1
        if random_.random() < 0.5:
            queue.add(key)
        else:
            queue.add_after(key, random_.random() * 0.002)
        if random_.random() < 0.3:
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while seen != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    queue.shutdown()
    await asyncio.gather(*workers)
