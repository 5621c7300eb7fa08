"""What stands behind a handle once it is bound: the protocols a service process implements. Types only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, Unpack

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model.handles.bucket import ObjectInfo, Source

T = TypeVar("T")


class Done(Protocol):
    """`rowcount` rows were changed (-1 where the server does not say); `last_id` is the last key made, or None."""

    @property
    def rowcount(self) -> int: ...

    @property
    def last_id(self) -> int | None: ...


class Reading(Protocol):
    """Plain SQL that reads; see `Database` for what each gives."""

    def one(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[T]: ...

    def first(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[T | None]: ...

    def all(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[list[T]]: ...

    def value(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[T]: ...

    def stream(self, type: type[T], sql: str, /, **parameters: Any) -> AsyncGenerator[T]: ...


class Queries(Reading, Protocol):
    """Plain SQL that reads and writes."""

    def execute(self, sql: str, /, **parameters: Any) -> Awaitable[Done]: ...

    def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]], /) -> Awaitable[Done]: ...


class Transaction(Queries, Protocol):
    """A transaction in hand. `info` is for whoever needs to remember something until it ends."""

    info: dict[str, Any]

    def begin(self) -> AbstractAsyncContextManager[Transaction]:
        """A savepoint: an exception that leaves the block undoes what was done in it, and no more."""
        ...


class BoundDatabase(Queries, Protocol):
    """`session` leaves committing to its user; `transaction` commits on leaving and rolls back on an exception."""

    def session(self) -> AbstractAsyncContextManager[AsyncSession]: ...

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]: ...

    def begin(self, isolation: str = "", *, read_only: bool = False) -> AbstractAsyncContextManager[Transaction]: ...

    def retrying(
        self, function: Callable[[Transaction], Awaitable[T]], attempts: int = 5, isolation: str = ""
    ) -> Awaitable[T]: ...

    @property
    def replica(self) -> Reading: ...


class BoundCache(Protocol):
    """See `Cache`, which says what each does. `type` is what JSON is decoded into; without it values are bytes."""

    async def get(self, key: str, *, type: Any = None) -> Any: ...

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None: ...

    async def delete(self, *keys: str) -> None: ...

    async def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]: ...

    async def set_many(self, values: Mapping[str, Any], ttl: float | None = None) -> None: ...

    async def add(self, key: str, value: Any, ttl: float | None = None) -> bool: ...

    async def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int | None: ...

    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Awaitable[Any]],
        ttl: float | None = None,
        *,
        type: Any = None,
        missing: float = 5.0,
    ) -> Any: ...


class BoundTopic(Protocol):
    """With a session the event goes to its outbox, without one straight to the broker."""

    async def publish(self, event: Any, session: AsyncSession | Transaction | None = None) -> None: ...


class BoundBucket(Protocol):
    """See `Bucket`, which says what each does."""

    async def get(self, key: str) -> bytes | None: ...

    async def get_range(self, key: str, start: int, end: int) -> bytes: ...

    def stream(self, key: str) -> AsyncIterator[bytes]: ...

    async def put(
        self,
        key: str,
        data: Source,
        content_type: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo: ...

    async def put_if_absent(
        self, key: str, data: Source, content_type: str | None = None, *, metadata: Mapping[str, str] | None = None
    ) -> bool: ...

    async def head(self, key: str) -> ObjectInfo | None: ...

    async def delete_many(self, keys: Iterable[str]) -> None: ...

    async def copy(self, key: str, to: str) -> None: ...

    def scan(self, prefix: str = "") -> AsyncIterator[ObjectInfo]: ...

    async def presigned_url(self, key: str, method: str, *, expires: float) -> str: ...


class BoundSecret(Protocol):
    """Raises KeyError for an unknown key."""

    def __getitem__(self, key: str) -> str: ...


class BoundConfig(Protocol):
    """`on_change` calls back with the new value and returns a function that ends that."""

    @property
    def value(self) -> Any: ...

    def on_change(self, callback: Callable[[Any], object]) -> Callable[[], None]: ...


class Reply(Protocol):
    """The reply of another service."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def body(self) -> bytes: ...

    def json(self) -> Any: ...

    def decode(self, type: type[T]) -> T: ...


class Streamed(Protocol):
    """A reply whose body is read as it comes: `async for part in reply`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def read(self) -> bytes: ...


class CallOptions(TypedDict, total=False):
    """What a call to another service may say beside its method and path."""

    json: Any  # the body, encoded as JSON
    data: bytes | str | None  # the body as it is
    params: Mapping[str, Any] | None
    headers: Mapping[str, str] | None
    timeout: float | None  # seconds, for all attempts; the policy's when not said
    idempotency_key: str | None  # makes a POST or PATCH safe to repeat


class ServiceClient(Protocol):
    """Calls another service over HTTP. Paths are relative to its root."""

    async def request(self, method: str, path: str, **options: Unpack[CallOptions]) -> Reply: ...

    async def get(self, path: str, **options: Unpack[CallOptions]) -> Reply: ...

    async def post(self, path: str, **options: Unpack[CallOptions]) -> Reply: ...

    async def put(self, path: str, **options: Unpack[CallOptions]) -> Reply: ...

    async def patch(self, path: str, **options: Unpack[CallOptions]) -> Reply: ...

    async def delete(self, path: str, **options: Unpack[CallOptions]) -> Reply: ...

    def stream(
        self, method: str, path: str, **options: Unpack[CallOptions]
    ) -> AbstractAsyncContextManager[Streamed]: ...


class ServiceChannel(Protocol):
    """Gives stubs of another service, over connections they share. `stub` is the class protoc generated."""

    def stub(self, stub: Callable[[Any], T]) -> T: ...
