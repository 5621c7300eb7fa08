"""A call that is tried again over another instance, as the policy of the callee allows."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

import grpc

if TYPE_CHECKING:
    from sampan.model import Policy
    from sampan.service.resilience.budget import RetryBudget

# A server that stops cancels what reaches it too late.
_TRANSIENT: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
)
# What gRPC's core says when there was no connection, so that nothing was sent.
_NOT_SENT: Final = ("failed to connect to all addresses", "connections to all backends failing")


def not_sent(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(_NOT_SENT)


class Repeated:
    """A unary call as grpc.aio gives it. `begin(left)` begins an attempt with so many seconds (None: no limit)."""

    def __init__(
        self,
        begin: Callable[[float | None], Any],
        limit: float | None,
        policy: Policy,
        budget: RetryBudget,
        safe: bool,
    ) -> None:
        self._begin, self._policy, self._budget, self._safe = begin, policy, budget, safe
        self._deadline = None if limit is None else time.monotonic() + limit
        self._call = begin(self._limit())
        self._task: asyncio.Task[Any] = asyncio.ensure_future(self._run())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _run(self) -> Any:
        attempt = 0
        self._budget.called()
        while True:
            try:
                return await self._call
            except grpc.aio.AioRpcError as error:
                wait = min(self._policy.backoff_most, self._policy.backoff * 2.0**attempt) * random.uniform(0.5, 1.5)
                if attempt >= self._policy.retries or not self._may(error, wait):
                    raise
            attempt += 1
            await asyncio.sleep(wait)
            self._call = self._begin(self._limit())

    def _limit(self) -> float | None:
        """Seconds for one attempt."""
        limits = (self._policy.attempt_timeout, self.time_remaining())
        return min((limit for limit in limits if limit is not None), default=None)

    def _may(self, error: grpc.aio.AioRpcError, wait: float) -> bool:
        again = (self._safe and error.code() in _TRANSIENT) or not_sent(error)
        in_time = self._deadline is None or time.monotonic() + wait < self._deadline
        return again and in_time and self._budget.take()

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._task.__await__())
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> bool:
        self._call.cancel()
        return self._task.cancel()

    def done(self) -> bool:
        return self._task.done()

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._task.add_done_callback(lambda _: callback(self))

    async def _over(self) -> Any:
        await asyncio.wait({self._task})
        return self._call

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await (await self._over()).code()
        return code

    async def details(self) -> str:
        return str(await (await self._over()).details())

    async def initial_metadata(self) -> Any:
        return await (await self._over()).initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await (await self._over()).trailing_metadata()

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
