"""In development: the same statement again and again within one request, and slow statements, told once a place.

A place is the line of the user's code that asked; the frames of Sampan, of SQLAlchemy and of the standard library are
passed over. Values are never part of a report.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
from collections import OrderedDict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from sampan.model.data import DatabaseError
from sampan.service.telemetry.context import CURRENT

if TYPE_CHECKING:
    from sampan.service.data.sql import Core
    from sampan.service.data.statement import Statement
    from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.database")

_REQUESTS: Final = 500  # whose statements are counted at the same time
_PLACES: Final = 1000
_OURS: Final = str(Path(__file__).parents[2])
_LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
EXPLAIN: Final = {"mysql": "EXPLAIN ", "sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN (GENERIC_PLAN) "}


def setting(name: str, default: float) -> float:
    try:
        return float(os.environ.get(name, ""))
    except ValueError:
        return default


class Reports:
    """SAMPAN_REPEATED_STATEMENTS (10): more of one shape in a request are reported. SAMPAN_SLOW_STATEMENT_MS (100)."""

    def __init__(self, name: str, core: Core, registry: Registry) -> None:
        self.name, self.core = name, core
        self.most = int(setting("SAMPAN_REPEATED_STATEMENTS", 10))
        self.slow_seconds = setting("SAMPAN_SLOW_STATEMENT_MS", 100) / 1000
        self._repeated = registry.counter(
            "db_repeated_statements_total", "Requests that ran one statement again and again.", ("database",)
        )
        self._slow = registry.counter("db_slow_statements_total", "Statements over the limit.", ("database",))
        self._counts: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._said: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def saw(self, statement: Statement, seconds: float) -> None:
        if seconds >= self.slow_seconds and statement.verb not in ("EXPLAIN", "COMMIT"):
            self._slow.add(self.name)
            if self._first("slow"):
                self._tell_slow(statement, seconds)
        context = CURRENT.get()
        if context is None:
            return
        counts = self._counts.get(context.request_id or context.trace_id)
        if counts is None:
            counts = self._counts[context.request_id or context.trace_id] = {}
            if len(self._counts) > _REQUESTS:
                self._counts.popitem(last=False)
        count = counts[statement.shape] = counts.get(statement.shape, 0) + 1
        if count == self.most + 1:
            self._repeated.add(self.name)
            if self._first("repeated"):
                log.warning(
                    "more than %d times in one request: read the rows with one statement (WHERE ... IN, or a JOIN)",
                    self.most,
                    extra={"database": self.name, "statement": _short(statement), "place": place()},
                )

    def _first(self, kind: str) -> bool:
        key = (kind, place())
        if key in self._said or len(self._said) >= _PLACES:
            return False
        self._said.add(key)
        return True

    def _tell_slow(self, statement: Statement, seconds: float) -> None:
        extra = {
            **{"database": self.name, "statement": _short(statement), "place": place()},
            "milliseconds": round(seconds * 1000, 1),
        }
        if not statement.reads:
            log.warning("slow statement", extra=extra)
            return
        task = asyncio.get_running_loop().create_task(self._explain(statement, extra))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _explain(self, statement: Statement, extra: dict[str, Any]) -> None:
        """The plan for any values: with NULL in the place of each, so that none can show in it."""
        engine = self.core.driver.engine
        CURRENT.set(None)
        try:
            slot = await self.core.pool.take()
            try:
                arguments = () if engine == "postgresql" else (None,) * len(statement.order)
                if engine == "postgresql":
                    rows = await (await slot.raw.execute(EXPLAIN[engine] + statement.sql)).fetchall()
                else:
                    _, rows, _, _ = await self.core.driver.fetch(slot, EXPLAIN[engine] + statement.sql, arguments)
                extra["plan"] = [" ".join(str(part) for part in row if part is not None) for row in rows][:30]
            finally:
                self.core.pool.give(slot)
        except Exception as error:
            if not isinstance(error, DatabaseError):
                log.debug("no plan: %s", type(error).__name__)
        log.warning("slow statement", extra=extra)


def _short(statement: Statement) -> str:
    return " ".join(statement.shape.split())[:500]


def place() -> str:
    """file:line of the user's code that is at work, through SQLAlchemy's greenlet too; "" when there is none."""
    frame: FrameType | None = sys._getframe(1)
    found = _user(frame)
    if not found and "greenlet" in sys.modules:
        import greenlet  # type: ignore[import-untyped]

        parent: Any = greenlet.getcurrent().parent
        found = _user(parent.gr_frame) if parent is not None else ""
    return found


def _user(frame: FrameType | None) -> str:
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_OURS, "<")) and not name.startswith(_LIBRARIES):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
