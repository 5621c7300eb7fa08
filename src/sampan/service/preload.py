"""Everything a service process may come to import. A warm parent imports this before it forks; nothing else does."""

from __future__ import annotations

import contextlib
import importlib
from typing import Final

from sampan.service.http.fastapi import relieve

MODULES: Final = (
    "uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
    "uvicorn.middleware.proxy_headers",
    "uvicorn.lifespan.on",
    "fastapi",
    "fastapi.responses",
    "sqlalchemy.dialects.mysql.asyncmy",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.orm.strategies",
    "alembic.op",
    "alembic.runtime.environment",
    "alembic.script",
    "alembic.config",
    "redis.asyncio",
    "redis.asyncio.retry",
    "redis.backoff",
    "asyncmy",
    "nats.aio.client",
    "nats.js.api",
    "sampan.service.background",
    "sampan.service.cache.binding",
    "sampan.service.configuration.binding",
    "sampan.service.data.binding",
    "sampan.service.data.engine",
    "sampan.service.data.database",
    "sampan.service.data.mysql",
    "sampan.service.data.sqlite",
    "sampan.service.discovery.binding",
    "sampan.service.http.binding",
    "sampan.service.http.client",
    "sampan.service.http.server",
    "sampan.service.job",
    "sampan.service.main",
    "sampan.service.messaging.binding",
    "sampan.service.messaging.consumer",
    "sampan.service.messaging.inbox",
    "sampan.service.messaging.nats",
    "sampan.service.messaging.outbox",
    "sampan.service.messaging.topic",
    "sampan.service.migrate",
    "sampan.service.objects.binding",
    "sampan.service.objects.files",
    "sampan.service.resilience.guards",
    "sampan.service.rpc.binding",
    "sampan.service.security.binding",
    "sampan.service.security.chain",
    "sampan.service.security.guard",
    "sampan.service.security.trail",
    "sampan.service.telemetry.bridge",
    "sampan.service.telemetry.meters",
)

relieve()
for _name in MODULES:
    with contextlib.suppress(ImportError):  # what is not installed cannot be used either
        importlib.import_module(_name)
