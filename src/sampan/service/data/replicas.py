"""Reads spread over replicas: those that answer and do not lag; else the primary, as for work that has just written."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeVar

from sampan.model.data import DatabaseError, Unavailable
from sampan.service.data.pool import Result
from sampan.service.data.sql import Core, Reads
from sampan.service.data.statement import Statement
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.database")
T = TypeVar("T")

_LOOK_SECONDS: Final = 2.0  # between two looks at a replica
_LOOK_TIMEOUT: Final = 2.0

# engine -> the statement whose one value is the lag in seconds; NULL: it replicates nothing
LAG: Final = {
    "postgresql": "SELECT CASE WHEN NOT pg_is_in_recovery() THEN 0"
    " WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND"
    " EXISTS (SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming') THEN 0"
    " ELSE EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp()) END::float8",
    "mysql": "SHOW SLAVE STATUS",
    "sqlite": "SELECT 0",
}


def limit_seconds() -> float:
    """SAMPAN_REPLICA_LAG_SECONDS: a replica further behind is passed over (10)."""
    try:
        return float(os.environ.get("SAMPAN_REPLICA_LAG_SECONDS", "10"))
    except ValueError:
        return 10.0


class _Replica:
    def __init__(self, core: Core) -> None:
        self.core = core
        self.usable = False
        self.looked = 0.0
        self.looking: asyncio.Task[None] | None = None


class Replicas(Reads):
    """Reading statements on replicas. Unknown at first, a replica is used once it has been seen to follow."""

    def __init__(self, primary: Core, cores: list[Core], registry: Registry) -> None:
        super().__init__(primary)
        self.primary, self.limit = primary, limit_seconds()
        self._replicas = [_Replica(core) for core in cores]
        self._turn = 0
        primary.observer.track_writes = True
        self._lag = registry.gauge("db_replica_lag_seconds", "How far a replica is behind.", ("database",))
        self._reads = registry.counter(
            "db_replica_reads_total", "Reads meant for a replica, by where they went.", ("database", "target")
        )

    async def _choose(self) -> Core:
        if not self.primary.observer.has_written():
            now = time.monotonic()
            for _ in self._replicas:
                self._turn = (self._turn + 1) % len(self._replicas)
                replica = self._replicas[self._turn]
                if now - replica.looked > _LOOK_SECONDS and replica.looking is None:
                    replica.looking = asyncio.create_task(self._look(replica))
                    if not replica.looked:  # the first time, wait for what is found
                        await asyncio.wait({replica.looking}, timeout=_LOOK_TIMEOUT)
                if replica.usable:
                    self._reads.add(self.primary.pool.name, "replica")
                    return replica.core
        self._reads.add(self.primary.pool.name, "primary")
        return self.primary

    async def _look(self, replica: _Replica) -> None:
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                lag = await self.lag(replica.core)
            if lag is not None:
                self._lag.set(lag, replica.core.pool.name)
            usable = lag is not None and lag <= self.limit
        except (DatabaseError, OSError, TimeoutError) as error:
            log.debug("replica %s: %s", replica.core.pool.name, error)
            usable = False
        if replica.usable and not usable:
            log.warning("replica %s is away or lags; its reads go elsewhere", replica.core.pool.name)
        replica.usable, replica.looked, replica.looking = usable, time.monotonic(), None

    @staticmethod
    async def lag(core: Core) -> float | None:
        """Seconds behind the primary; None when it does not replicate at present."""
        rows = await Reads(core).all(dict, LAG[core.driver.engine])
        if core.driver.engine != "mysql":
            value = next(iter(rows[0].values())) if rows else None
        else:
            value = rows[0].get("Seconds_Behind_Master") if rows else 0  # not a replica: a cluster, or a proxy
        return None if value is None else float(value)

    async def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> Result:
        arguments = statement.arguments(parameters, self.primary.encoders)
        core = await self._choose()
        if core is not self.primary:
            try:
                return await core.run(statement, arguments)
            except Unavailable:
                self._away(core)
        return await self.primary.run(statement, arguments)

    def _away(self, core: Core) -> None:
        for replica in self._replicas:
            if replica.core is core:
                replica.usable, replica.looked = False, time.monotonic()

    async def stream(self, type: type[T], sql: str, /, **parameters: Any) -> AsyncGenerator[T]:
        async with aclosing(Reads(await self._choose()).stream(type, sql, **parameters)) as rows:
            async for row in rows:
                yield row

    async def close(self) -> None:
        for replica in self._replicas:
            if replica.looking is not None:
                replica.looking.cancel()
            await replica.core.pool.close()
