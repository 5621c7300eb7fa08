"""The same small FastAPI application as each stack serves it, each told everything about every request.

Spans of all of them go over OTLP to the same sink (`sink.py`); access logs are JSON, to /dev/null.
"""

from __future__ import annotations

WEB = """
from fastapi import FastAPI
from pydantic import BaseModel

class User(BaseModel):
    id: int
    name: str
    email: str

app = FastAPI()

@app.get("/users/{user_id}")
async def user(user_id: int) -> User:
    return User(id=user_id, name="Ada Lovelace", email="ada@example.com")

BODY = b'{"id":42,"name":"Ada Lovelace","email":"ada@example.com"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]

async def raw(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
"""
SYSTEM = """
from sampan import Application, Database, Service, Topic
import msgspec

class Event(msgspec.Struct):
    number: int

db, events = Database("users"), Topic("events", Event)
app = Application("bench", services=[
    Service("fast", asgi="web:app"),
    Service("raw", asgi="web:raw"),
    Service("whole", asgi="web:app", uses=[db.read_write(), events.publish(), events.subscribe("web:consume")]),
])
"""
OURS = "import sys; from sampan.service.main import serve; sys.exit(serve({name!r}))"
BARE = "import sys, uvicorn; uvicorn.run('web:app', port=int(sys.argv[1]), access_log=False, log_level='error')"

_LOGGED = """
import sys, time
import structlog, uvicorn
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_fastapi_instrumentator import Instrumentator
from web import app

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
structlog.configure(
    processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
    logger_factory=structlog.WriteLoggerFactory(file=open("/dev/null", "w")),
    cache_logger_on_first_use=True,
)
log = structlog.get_logger()

class Access:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.perf_counter(), 0
        async def sending(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
        await self.app(scope, receive, sending)
        span = trace.get_current_span().get_span_context()
        log.info("request", method=scope["method"], path=scope["path"], status=status,
                 duration=time.perf_counter() - started, trace_id=format(span.trace_id, "032x"))

app.add_middleware(Access)
Instrumentator().instrument(app).expose(app)
"""
_RUN = 'uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error")\n'
# the contrib package as it is installed: three spans a request
USUAL = (
    _LOGGED
    + """
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
FastAPIInstrumentor.instrument_app(app)
"""
    + _RUN
)
# FastAPI's own, told to make one span a request; its metrics and logs off, for others make them
BEST = (
    _LOGGED
    + """
app._telemetry.update({"operation_spans": False, "metrics": False, "logs": False})
"""
    + _RUN
)
PACKAGES = (
    "fastapi",
    "uvicorn",
    "httptools",
    "uvloop",
    "structlog",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation-fastapi",
    "prometheus-fastapi-instrumentator",
)
