"""The resources of a system. A handle is a declaration, a source of grants, and, once bound, the client."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, overload

from sampan.model.location import Location, here
from sampan.model.problems import NotBound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model.bound import BoundBucket, BoundCache, BoundConfig, BoundDatabase, BoundSecret, BoundTopic


class _Missing:
    """Tells `publish()` from `publish(None)`."""


MISSING = _Missing()
E = TypeVar("E")
S = TypeVar("S")
Access = Literal["read", "read_write", "publish", "subscribe"]


@dataclass(frozen=True)
class Grant:
    """Leave to use a resource. `handler`, `group`, `concurrency` and `attempts` belong to `subscribe`."""

    handle: Handle
    access: Access
    handler: str = ""
    group: str = ""
    concurrency: int = 1
    attempts: int = 5
    location: Location = field(default_factory=here, compare=False)


class Handle:
    """What every resource has: a kind, a name (a DNS label), the place it was declared, and a private binding."""

    kind: ClassVar[str]
    access: ClassVar[tuple[Access, ...]] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.location = here()
        self._bound: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def directory(self) -> str:
        """The directory of its binding under `$SERVICE_BINDING_ROOT`."""
        return f"{self.kind}-{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides the `uri` of its binding."""
        return f"SAMPAN_{self.directory.upper().replace('-', '_')}_URI"

    @property
    def bound(self) -> bool:
        return self._bound is not None

    def bind(self, implementation: Any) -> None:
        """Put an implementation (see `bound.py`) behind the handle; None takes it away."""
        self._bound = implementation

    def _need(self) -> Any:
        if self._bound is None:
            raise NotBound(self._unbound())
        return self._bound

    def _unbound(self) -> str:
        return (
            f"{self!r}, declared at {self.location}, is not bound in this process. A handle works as a client inside "
            f"`sampan serve SERVICE`, for a service whose `uses` name it; elsewhere set {self.variable} "
            f"or call .bind(...)."
        )

    def _grant(self, access: Access, **more: Any) -> Grant:
        return Grant(self, access, **more)


class Database(Handle):
    """A relational database. `engine` is mysql, postgresql or sqlite; `migrations` an Alembic directory."""

    kind = "database"
    access = ("read", "read_write")

    def __init__(self, name: str, *, engine: str = "mysql", migrations: str | None = None) -> None:
        super().__init__(name)
        self.engine = engine
        self.migrations = migrations

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    async def session(self) -> AsyncIterator[AsyncSession]:
        """For `Depends(db.session)`: a session for one request; its user commits."""
        bound: BoundDatabase = self._need()
        async with bound.session() as session:
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that is committed on leaving and rolled back on an exception."""
        bound: BoundDatabase = self._need()
        async with bound.transaction() as session:
            yield session


class Cache(Handle):
    """A key-value cache that speaks the Redis protocol."""

    kind = "cache"
    access = ("read", "read_write")

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    async def get(self, key: str) -> bytes | None:
        bound: BoundCache = self._need()
        return await bound.get(key)

    async def set(self, key: str, value: bytes | str, ttl: float | None = None) -> None:
        """Store `value` for `ttl` seconds; without `ttl` until it is evicted."""
        bound: BoundCache = self._need()
        await bound.set(key, value, ttl)

    async def delete(self, key: str) -> None:
        bound: BoundCache = self._need()
        await bound.delete(key)


class Topic(Handle, Generic[E]):
    """A stream of events of one type (a msgspec Struct, dataclass or pydantic model)."""

    kind = "topic"
    access = ("publish", "subscribe")

    def __init__(self, name: str, type: type[E]) -> None:
        super().__init__(name)
        self.type = type

    @property
    def directory(self) -> str:
        return "messaging"

    @overload
    def publish(self) -> Grant: ...

    @overload
    def publish(self, event: E, session: AsyncSession | None = None) -> Coroutine[Any, Any, None]: ...

    def publish(
        self, event: E | _Missing = MISSING, session: AsyncSession | None = None
    ) -> Grant | Coroutine[Any, Any, None]:
        """Without an argument the grant, for `uses`. With an event: publish it, by the outbox of `session` if given."""
        if isinstance(event, _Missing):
            return self._grant("publish")
        bound: BoundTopic = self._need()
        return bound.publish(event, session)

    def subscribe(self, handler: str, *, group: str = "", concurrency: int = 1, attempts: int = 5) -> Grant:
        """Consume with `handler` ("module:function"). Instances and services of one `group` share the events.

        `group` defaults to the name of the service; after `attempts` deliveries an event is set aside.
        """
        return self._grant("subscribe", handler=handler, group=group, concurrency=concurrency, attempts=attempts)


class Bucket(Handle):
    """Objects by key."""

    kind = "bucket"
    access = ("read", "read_write")

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    async def get(self, key: str) -> bytes | None:
        bound: BoundBucket = self._need()
        return await bound.get(key)

    async def put(self, key: str, data: bytes, content_type: str | None = None) -> None:
        bound: BoundBucket = self._need()
        await bound.put(key, data, content_type)

    async def delete(self, key: str) -> None:
        bound: BoundBucket = self._need()
        await bound.delete(key)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys that start with `prefix`."""
        bound: BoundBucket = self._need()
        async for key in bound.list(prefix):
            yield key


class Secret(Handle):
    """A Kubernetes Secret provided from outside. `keys` are those the code reads; `up` makes up their local values."""

    kind = "secret"

    def __init__(self, name: str, keys: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.keys = tuple(keys)

    def __getitem__(self, key: str) -> str:
        bound: BoundSecret = self._need()
        return bound[key]


class Config(Handle, Generic[S]):
    """Settings that may change while the service runs: a typed object, a ConfigMap with a key per field.

    `values` fill fields of `type` (a msgspec Struct, dataclass or pydantic model) for every environment.
    """

    kind = "config"

    def __init__(self, name: str, type: type[S], values: Mapping[str, Any] | None = None) -> None:
        super().__init__(name)
        self.type = type
        self.values = dict(values or {})

    @property
    def value(self) -> S:
        """The present settings."""
        bound: BoundConfig = self._need()
        value: S = bound.value
        return value

    def on_change(self, callback: Callable[[S], None]) -> Callable[[], None]:
        """Call back with the new settings after each change; the returned function ends that."""
        bound: BoundConfig = self._need()
        return bound.on_change(callback)
