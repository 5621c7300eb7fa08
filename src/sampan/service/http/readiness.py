"""Whether this process can take work: every dependency asked at once, timed, remembered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from sampan.service.lifecycle import USER_CHECKS
from sampan.service.telemetry.metrics import Registry

CHECK_SECONDS: Final = 1.5  # less than a probe of the kubelet waits, so that its answer says which check hangs
_KEEP_SECONDS: Final = 0.25
_HISTORY: Final = 10


class Degraded(Exception):
    """What a check raises to say, in these words alone, what is amiss."""


class Check:
    """One dependency. A failing `required` one makes the service not ready, another one only degraded."""

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[None]],
        required: Callable[[], bool],
        timeout: float = CHECK_SECONDS,
    ) -> None:
        self.name, self.probe, self.required, self.timeout = name, probe, required, timeout


class Result:
    """The latest answer of a check, and when it last changed (Unix seconds)."""

    __slots__ = ("answer", "changed", "history", "seconds")

    def __init__(self) -> None:
        self.answer, self.seconds, self.changed = "", 0.0, 0.0
        self.history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)

    def take(self, answer: str, seconds: float) -> None:
        self.seconds = seconds
        if answer != self.answer:
            self.answer, self.changed = answer, time.time()
            self.history.append({"at": _stamp(self.changed), "answer": answer})


class Readiness:
    """Asks all dependencies at once; the answer is shared by those who ask within a quarter of a second."""

    def __init__(self, checks: Iterable[Any] = (), registry: Registry | None = None) -> None:
        self.checks = checks if isinstance(checks, list) else list(checks)
        self.started = False
        self.draining = False
        self.results: dict[str, Result] = {}
        self._asking: asyncio.Future[None] | None = None
        self._asked = 0.0
        registry = registry or Registry()
        self.up = registry.gauge("dependency_up", "Whether a dependency answers its check.", ("dependency",))

    def every(self) -> list[Any]:
        """Those of the process and those of the user's code, which may be declared at any time."""
        return [*self.checks, *USER_CHECKS.values()]

    async def report(self, verbose: bool = False) -> tuple[bool, dict[str, Any]]:
        """(ready, the body of /ready)."""
        if self.draining or not self.started:
            return False, {"status": "draining" if self.draining else "starting"}
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() - self._asked > _KEEP_SECONDS):
            asking = self._asking = asyncio.ensure_future(self._ask())
        await asyncio.shield(asking)
        checks = [(check, self.results[check.name]) for check in self.every() if check.name in self.results]
        failed = [check for check, result in checks if result.answer != "ok"]
        ready = not any(check.required() for check in failed)
        return ready, {
            "status": ("degraded" if failed else "ok") if ready else "not ready",
            "checks": {check.name: _verbose(check, result) if verbose else result.answer for check, result in checks},
        }

    async def _ask(self) -> None:
        checks = self.every()
        await asyncio.gather(*(self._one(check) for check in checks))
        self._asked = time.monotonic()

    async def _one(self, check: Any) -> None:
        begun = time.perf_counter()
        probing = asyncio.ensure_future(check.probe())
        await asyncio.wait({probing}, timeout=check.timeout)
        if not probing.done():
            probing.cancel()  # and is not waited for: it may refuse
            answer = f"no answer within {check.timeout:g} s"
        elif probing.cancelled():
            answer = "cancelled"
        else:
            answer = _words(probing.exception())
        self.results.setdefault(check.name, Result()).take(answer, time.perf_counter() - begun)
        self.up.set(float(answer == "ok"), check.name)


def _words(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    text = str(error) if isinstance(error, Degraded) else f"{type(error).__name__}: {error}"
    return (text.splitlines() or [""])[0][:300]


def _verbose(check: Any, result: Result) -> dict[str, Any]:
    return {
        "answer": result.answer,
        "required": check.required(),
        "seconds": round(result.seconds, 4),
        "since": _stamp(result.changed),
        "history": list(result.history),
    }


def _stamp(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
