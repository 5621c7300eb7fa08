"""Whether a caller may do what is asked: functions, Rego and CEL behind one interface, `judge`.

Only exactly `True` allows. Anything else - false, undefined, a number, a policy that fails - denies. A policy file is
read again when it changes; one that cannot be read or compiled is refused and the old one stays.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

from sampan.model.security import Authorize, Cel, Rego, policy_file
from sampan.service.bindings import BindingError
from sampan.service.security.caller import Caller, Request, caller_data
from sampan.service.tasks import end

log = logging.getLogger("sampan.security")

POLL_SECONDS: Final = 0.5
Verdict = str | None
"""None allows; a text says why not."""


class Policy(Protocol):
    """`judge` answers at once where it can. It never raises: a failing policy denies."""

    def judge(self, caller: Caller, request: Request) -> Verdict | Awaitable[Verdict]: ...

    def poll(self) -> None: ...

    def close(self) -> None:
        """It judges no more; from the thread that made it."""


def make(declared: Authorize, load: Callable[[str], Any]) -> Policy:
    """BindingError when the policy cannot be used."""
    if isinstance(declared, str):
        return FunctionPolicy(load(declared))
    try:
        return RegoPolicy(declared) if isinstance(declared, Rego) else CelPolicy(declared)
    except (ValueError, OSError) as error:
        raise BindingError(f"the policy {declared!r}: {error}") from error


class FunctionPolicy:
    """`allow(caller, request) -> bool | str`, sync or async; a text denies and is its reason, for the log."""

    def __init__(self, function: Callable[[Caller, Request], Any]) -> None:
        self.function = function

    def judge(self, caller: Caller, request: Request) -> Verdict | Awaitable[Verdict]:
        try:
            answer = self.function(caller, request)
        except Exception as error:
            return _failed(error)
        return self._later(answer) if inspect.isawaitable(answer) else _verdict(answer)

    async def _later(self, answer: Awaitable[Any]) -> Verdict:
        try:
            return _verdict(await answer)
        except Exception as error:
            return _failed(error)

    def poll(self) -> None: ...

    def close(self) -> None: ...


def _verdict(answer: Any) -> Verdict:
    if answer is True:
        return None
    return answer if isinstance(answer, str) and answer else "the policy denies"


def _failed(error: Exception) -> str:
    log.error("the policy failed, so it denies: %s", type(error).__name__, exc_info=error)
    return "the policy failed"


class _Reloading(ABC):
    """A policy compiled from a text, and from a file again whenever that changes."""

    def __init__(self, path: str | None) -> None:
        self.path = policy_file(path) if path else None
        if path and self.path is None:
            raise FileNotFoundError(f"no file {path!r} in {Path.cwd()} or on the path")
        self._print = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat() if self.path else None
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_size) if status else None

    @abstractmethod
    def compile(self) -> None:
        """ValueError when the text is no policy."""

    def close(self) -> None:  # noqa: B027
        """Nothing to free."""

    def poll(self) -> None:
        now = self._look()
        if now is None or now == self._print:
            return
        self._print = now
        try:
            self.compile()
        except (ValueError, OSError) as error:
            log.error("the policy %s refused, the old one stays: %s", self.path, error)
        else:
            log.info("the policy %s changed", self.path)


class RegoPolicy(_Reloading):
    engine: Any  # of regorus

    def __init__(self, declared: Rego) -> None:
        super().__init__(declared.path)
        self.query = declared.query
        self.compile()

    def compile(self) -> None:
        """ValueError when the file is no policy, or has no such rule."""
        import regorus  # type: ignore[import-untyped]

        assert self.path is not None
        engine = regorus.Engine()
        try:
            engine.add_policy(self.path.name, self.path.read_text(encoding="utf-8"))
            engine.set_input({"caller": {}, "request": {}})
            try:
                engine.eval_rule(self.query)
            except RuntimeError as error:  # with real input it may well succeed
                if "not a valid rule path" in str(error):
                    raise ValueError(f"it has no rule {self.query}") from error
            self.engine = engine
        except RuntimeError as error:
            raise ValueError(_plain(error)) from error
        finally:
            del engine  # else the frame of an error keeps it, and it complains when another thread collects that

    def close(self) -> None:
        """Free the engine here: one that is collected in another thread complains, and stays."""
        self.engine = None

    def judge(self, caller: Caller, request: Request) -> Verdict:
        try:
            self.engine.set_input({"caller": caller_data(caller), "request": request.as_data()})
            allowed = self.engine.eval_rule(self.query)
        except Exception as error:
            log.error("the policy %s failed, so it denies: %s", self.path, _plain(error))
            return "the policy failed"
        return None if allowed is True else "the policy denies"


class CelPolicy(_Reloading):
    def __init__(self, declared: Cel) -> None:
        super().__init__(declared.file)
        self.expression = declared.expression
        self.compile()

    def compile(self) -> None:
        """ValueError when it is no expression."""
        import cel

        self.program = cel.compile(self.path.read_text(encoding="utf-8") if self.path else self.expression)

    def judge(self, caller: Caller, request: Request) -> Verdict:
        try:
            allowed = self.program.execute({"caller": caller_data(caller), "request": request.as_data()})
        except Exception as error:
            log.warning("the policy failed, so it denies: %s", _plain(error))
            return "the policy failed"
        return None if allowed is True else "the policy denies"


def _plain(error: Exception) -> str:
    """Without the stack of the engine behind it."""
    return str(error).partition("Stack backtrace")[0].strip() or type(error).__name__


class Watch:
    """Looks at a policy's file twice a second, as a component of the process."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="policy")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.policy.poll()

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)
        self.policy.close()
