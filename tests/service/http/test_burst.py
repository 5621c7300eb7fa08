"""Requests that begin in one turn of the event loop: when their answers are written, and that none is lost.

The loops differ in what comes first, what a connection has received or what was to be called soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

COUNT = 12
Then = Callable[[int], Awaitable[None]]


class Turn:
    """Some clients whose requests come at the same time, and an application that numbers them as they begin."""

    def __init__(self, then: Callable[[Turn, int], Awaitable[None]], after: Callable[[int], None] | None) -> None:
        self.then, self.after = then, after
        self.clients: list[socket.socket] = []
        self.begun = 0
        self.server: Any = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError
        self.begun += 1
        number = self.begun
        await self.then(self, number)
        length = [] if scope["path"] == "/1" else [(b"content-length", b"2")]  # without, it is written in pieces
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"ok"})
        if self.after is not None:
            self.after(number)

    def answered(self) -> int:
        """How many clients have something to read."""
        return len(select.select(self.clients, [], [], 0)[0])

    async def answers(self) -> list[bytes]:
        await asyncio.sleep(0.3)
        found = []
        for client in self.clients:
            try:
                found.append(client.recv(10_000))
            except OSError as error:
                found.append(repr(error).encode())
        return found


@pytest.fixture
def taking(serving: Any) -> Any:
    @contextlib.asynccontextmanager
    async def take(
        then: Callable[[Turn, int], Awaitable[None]],
        after: Callable[[int], None] | None = None,
        asked: bytes = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n",
    ) -> AsyncIterator[Turn]:
        turn = Turn(then, after)
        async with serving(turn.app) as served:
            turn.server = served.server
            try:
                for _ in range(COUNT):
                    turn.clients.append(socket.create_connection(("127.0.0.1", served.port)))
                    turn.clients[-1].setblocking(False)
                await asyncio.sleep(0.05)  # all are accepted
                for client in turn.clients:
                    client.sendall(asked)
                yield turn
            finally:
                for client in turn.clients:
                    client.close()

    return take


def whole(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\nok") and answer.count(b"HTTP/1.1") == 1


async def test_answers_that_are_ready_together_are_written_together(taking: Any) -> None:
    unwritten = []

    async def then(turn: Turn, number: int) -> None:
        unwritten.append(number - 1 - turn.answered())

    async with taking(then) as turn:
        assert all(map(whole, await turn.answers()))
    assert len(unwritten) == COUNT
    assert max(unwritten) >= 1, "each was written at once"


async def test_no_answer_waits_for_handlers_that_take_their_time(taking: Any) -> None:
    unwritten = []

    async def then(turn: Turn, number: int) -> None:
        unwritten.append(number - 1 - turn.answered())
        time.sleep(0.01)  # noqa: ASYNC251  # it computes

    async with taking(then) as turn:
        assert all(map(whole, await turn.answers()))
    assert unwritten == [0] * COUNT


async def _close(turn: Turn) -> None:
    for client in turn.clients:
        client.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.05)  # so that this one does not write those of the others


async def _shut_down(turn: Turn) -> None:
    for connection in list(turn.server.server_state.connections):
        connection.shutdown()


async def _ask_more(turn: Turn) -> None:
    for client in turn.clients[:-1]:
        client.sendall(b"no HTTP\r\n\r\n")
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("happens", [_close, _shut_down, _ask_more], ids=lambda function: function.__name__.strip("_"))
async def test_an_answer_that_waits_comes_before_what_happens_to_its_connection(
    taking: Any, happens: Callable[[Turn], Awaitable[None]]
) -> None:
    waiting = []

    async def then(turn: Turn, number: int) -> None:
        if number == COUNT:
            waiting.append(COUNT - 1 - turn.answered())
            await happens(turn)

    for _ in range(20):  # until some did wait: a slow machine writes them before
        async with taking(then) as turn:
            found = await turn.answers()
        first = [answer.partition(b"ok")[0] + b"ok" for answer in found[:-1]]
        assert all(map(whole, first)), found
        if happens is _ask_more:
            assert all(b"ok" in answer and b"HTTP/1.1 400" in answer.partition(b"ok")[2] for answer in found[:-1])
        if waiting[-1]:
            return
    raise AssertionError("none ever waited")


async def test_answers_do_not_wait_for_one_that_waits_itself(taking: Any) -> None:
    answered = []

    async def then(turn: Turn, number: int) -> None:
        if number == COUNT:
            await asyncio.sleep(0.1)
            answered.append(turn.answered())

    async with taking(then) as turn:
        assert all(map(whole, await turn.answers()))
    assert answered == [COUNT - 1]


@pytest.mark.parametrize("failure", [ValueError, asyncio.CancelledError])
async def test_an_application_that_fails_after_its_answer_has_answered(
    taking: Any, failure: type[BaseException]
) -> None:
    async def then(_turn: Turn, _number: int) -> None:
        pass

    def after(number: int) -> None:
        raise failure(number)

    async with taking(then, after) as turn:
        assert all(map(whole, await turn.answers()))


async def test_answers_on_one_connection_stay_in_order(taking: Any) -> None:
    async def then(_turn: Turn, number: int) -> None:
        if number % 3 == 0:
            await asyncio.sleep(0)

    three = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\nx-request-id: r%d\r\n\r\n" % (n, n) for n in range(3))
    async with taking(then, asked=three) as turn:
        for answer in await turn.answers():
            assert [line[-2:] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")] == [
                b"r0",
                b"r1",
                b"r2",
            ]
